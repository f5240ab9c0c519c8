from __future__ import annotations

import pytest
import torch

from tercet.data.hog import oriented_gradients
from tercet.encoders import DrawingEncoder, DrawingEncoderConfig, build_encoder, read_encoder
from tercet.errors import InvalidInput


def strokes(count: int, height: int, width: int) -> torch.Tensor:
    """Bright bars on black at random angles and places."""
    torch.manual_seed(0)
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x_BHW = torch.full((count, height, width), -1.0)
    for n in range(4):
        angle_B, at_B = torch.rand(count) * 3.14, torch.rand(count) * 0.6 + 0.2
        line_BHW = torch.cos(angle_B)[:, None, None] * (across - at_B[:, None, None] * width)
        line_BHW = line_BHW + torch.sin(angle_B)[:, None, None] * (down - (1 - at_B[:, None, None]) * height)
        x_BHW[line_BHW.abs() < 1.5 + n / 4] = 1.0
    return x_BHW[:, None]


def test_it_begins_near_the_histograms():
    """Where there are as many numbers as the histograms have, its own part of the vector has their similarities."""
    x_B1HW = strokes(24, 32, 40)
    histograms_BF = oriented_gradients(x_B1HW[:, 0], cell=8)
    expected_BB = histograms_BF @ histograms_BF.T
    config = DrawingEncoderConfig(32, 40, embedding_dim=36 * 3 * 4 * 4 // 3, base_width=8)
    assert config.histograms == 36 * 3 * 4 == histograms_BF.shape[1]
    torch.manual_seed(0)
    x_BD = config.build()(x_B1HW).detach()
    own_BF = torch.nn.functional.normalize(x_BD[:, : config.histograms], dim=1)
    torch.testing.assert_close(own_BF @ own_BF.T, expected_BB, atol=1e-5, rtol=0)
    off_BB = (x_BD @ x_BD.T - expected_BB).abs()
    assert off_BB.max() < 0.1, "the network's part is small"
    narrow_BD = DrawingEncoderConfig(32, 40, embedding_dim=288, base_width=8).build()(x_B1HW).detach()
    assert (narrow_BD @ narrow_BD.T - expected_BB).abs().mean() < 0.1


def test_every_weight_learns_and_vectors_depend_on_nothing_else():
    encoder = DrawingEncoderConfig(32, 40, embedding_dim=16, base_width=8).build()
    for block in encoder.network.blocks:
        torch.nn.init.ones_(block.second_norm.weight)
    x_B1HW = strokes(6, 32, 40)
    x_BD = encoder.train()(x_B1HW)
    torch.testing.assert_close(x_BD.norm(dim=1), torch.ones(6))
    alone_BD = torch.cat([encoder.eval()(x_B1HW[n : n + 1]) for n in range(6)])
    torch.testing.assert_close(x_BD, alone_BD, atol=1e-6, rtol=0)
    (x_BD @ torch.randn(16)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_an_empty_picture_has_a_vector():
    encoder = DrawingEncoderConfig(16, 16, embedding_dim=8, base_width=8).build()
    assert torch.isfinite(encoder(torch.full((1, 1, 16, 16), -1.0))).all()


def test_the_configuration_survives_json_and_builds_the_same_network():
    config = DrawingEncoderConfig(24, 32, embedding_dim=12, base_width=8, cell=6)
    assert read_encoder(config.to_json()) == config and config.with_embedding_dim(9).embedding_dim == 9
    build_encoder(config.to_json()).load_state_dict(DrawingEncoder(config).state_dict())
    assert config.takes((1, 24, 32)) and not config.takes((3, 24, 32))


@pytest.mark.parametrize(
    "wrong", [{"cell": 3}, {"cell": 17}, {"height": 7}, {"base_width": 12}, {"embedding_dim": 3}, {"cell": 8.0}]
)
def test_numbers_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        DrawingEncoderConfig(**({"height": 32, "width": 40} | wrong))
