import pytest
import torch

from tercet.encoders import ConvEncoder, ConvEncoderConfig, build_encoder, read_encoder
from tercet.errors import InvalidInput, InvalidOption


@pytest.mark.parametrize("pool", ["average", "flatten"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 31), (28, 28), (64, 48), (112, 92)])
def test_any_size_gives_unit_vectors_and_every_weight_a_gradient(height, width, pool):
    encoder = ConvEncoder(ConvEncoderConfig(3, height, width, embedding_dim=16, base_width=8, pool=pool))
    torch.manual_seed(0)
    for block in encoder.blocks:  # they begin as their short cut, which hides the first convolution from the gradient
        torch.nn.init.ones_(block.second_norm.weight)
    x_BD = encoder(torch.randn(3, 3, height, width))
    assert x_BD.shape == (3, 16)
    torch.testing.assert_close(x_BD.norm(dim=1), torch.ones(3))
    (x_BD @ torch.randn(16, 1)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_a_vector_does_not_depend_on_its_batch_nor_on_training_mode():
    torch.manual_seed(0)
    encoder = ConvEncoder(ConvEncoderConfig(1, 16, 16, base_width=8))
    x_BCHW = torch.randn(5, 1, 16, 16)
    together = encoder.train()(x_BCHW)
    alone = torch.cat([encoder.eval()(x_BCHW[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_the_configuration_survives_json_and_builds_the_same_network():
    config = ConvEncoderConfig(1, 20, 24, embedding_dim=12, base_width=16, pool="flatten")
    assert read_encoder(config.to_json()) == config
    encoder = build_encoder(config.to_json())
    encoder.load_state_dict(ConvEncoder(config).state_dict())


def test_a_configuration_of_the_first_runs_is_read_as_it_was():
    values = ConvEncoderConfig(1, 8, 8).to_json()
    del values["flip_test"]
    assert read_encoder(values) == ConvEncoderConfig(1, 8, 8, flip_test=False)
    del values["pool"]
    with pytest.raises(InvalidInput, match="encoder: keys"):
        read_encoder(values)


def test_with_the_flip_test_a_picture_and_its_mirror_image_are_one_in_use_and_two_in_training():
    torch.manual_seed(0)
    encoder = ConvEncoder(ConvEncoderConfig(1, 16, 16, base_width=8, pool="flatten", flip_test=True))
    x_BCHW = torch.randn(4, 1, 16, 16)
    seen, mirrored = encoder.eval()(x_BCHW), encoder(x_BCHW.flip(3))
    torch.testing.assert_close(seen, mirrored)
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(4))
    assert not torch.allclose(encoder.train()(x_BCHW), encoder(x_BCHW.flip(3)), atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 7},
        {"width": 10**6},
        {"channels": 0},
        {"base_width": 12},
        {"base_width": 10**9},
        {"embedding_dim": 0},
        {"embedding_dim": 2.5},
        {"embedding_dim": True},
        {"flip_test": 1},
    ],
)
def test_numbers_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        ConvEncoderConfig(**({"channels": 1, "height": 8, "width": 8} | wrong))


def test_unknown_kinds_pools_and_keys_are_refused():
    values = ConvEncoderConfig(1, 8, 8).to_json()
    with pytest.raises(InvalidOption, match="pool='max'"):
        build_encoder(values | {"pool": "max"})
    with pytest.raises(InvalidOption, match="encoder='transformer'"):
        build_encoder(values | {"kind": "transformer"})
    with pytest.raises(InvalidInput, match="encoder: keys"):
        build_encoder(values | {"depth": 3})
