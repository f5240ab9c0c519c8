"""A description beside a network: what it adds to the similarity, and the map that is fitted to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.data.cepstrum import CEPSTRAL_STATISTICS, cepstral_statistics
from tercet.data.colours import colour_histogram
from tercet.data.hog import oriented_gradients
from tercet.encoders import (
    ConvEncoderConfig,
    DescribedConfig,
    DrawingEncoderConfig,
    SpeechEncoderConfig,
    build_encoder,
    read_encoder,
)
from tercet.encoders.described import fit_description, fit_whitening
from tercet.errors import InvalidInput
from tercet.tasks import load_task, task_names

FACES = DescribedConfig(ConvEncoderConfig(1, 24, 32, 6, 8, "flatten", flip_test=True), embedding_dim=10)
COLOURS = DescribedConfig(ConvEncoderConfig(3, 16, 16, 6, 8), embedding_dim=9)
SIGNED = DescribedConfig(DrawingEncoderConfig(30, 40, 8, 8, cell=10), embedding_dim=12)
VOICES = DescribedConfig(SpeechEncoderConfig(width=64, blocks=1, embedding_dim=6), embedding_dim=12)


def samples(config: DescribedConfig, count: int = 7) -> torch.Tensor:
    torch.manual_seed(1)
    network = config.network
    if isinstance(network, SpeechEncoderConfig):
        return torch.randn(count, 1, 8000) / 8
    channels = network.channels if isinstance(network, ConvEncoderConfig) else 1
    return torch.randn(count, channels, network.height, network.width)


def fitted(config: DescribedConfig, share: float) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = config.build().eval()
    described = encoder.description.describe(samples(config, 30)).numpy()
    middle, known = fit_description(described, np.arange(30) % 6, config.known)
    encoder.load_state_dict(
        {"description.middle": middle, "description.known": known, "share": torch.tensor(share)}, strict=False
    )
    return encoder


@pytest.mark.parametrize("config", [FACES, COLOURS, SIGNED, VOICES])
def test_the_similarity_is_the_networks_and_the_descriptions_by_their_shares(config):
    x = samples(config)
    encoder = fitted(config, 0.3)
    with torch.no_grad():
        vectors_BD, network_BN, known_BK = encoder(x), encoder.network(x), encoder.description(x)
    assert vectors_BD.shape == (7, config.embedding_dim)
    assert network_BN.shape == (7, config.network.embedding_dim) and known_BK.shape == (7, config.known)
    expected_BB = 0.7 * network_BN @ network_BN.T + 0.3 * known_BK @ known_BK.T
    torch.testing.assert_close(vectors_BD @ vectors_BD.T, expected_BB, atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors_BD.norm(dim=1), torch.ones(7))


@pytest.mark.parametrize("config", [FACES, COLOURS, SIGNED, VOICES])
def test_training_sees_the_network_alone(config):
    x = samples(config)
    encoder = fitted(config, 0.5).train()
    vectors_BN = encoder(x)
    torch.testing.assert_close(vectors_BN, encoder.network(x))
    vectors_BN.square().sum().backward()
    assert {name.split(".")[0] for name, p in encoder.named_parameters() if p.grad is not None} == {"network"}


def test_before_it_is_fitted_the_vectors_are_the_networks():
    encoder = FACES.build().eval()
    x = samples(FACES)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x)[:, :6], encoder.network(x))
        assert (encoder(x)[:, 6:] == 0).all()


def test_what_is_described():
    """Grey pictures by their histograms, with the mirror image where the network has it; colours; the cepstrum."""
    x = samples(FACES)
    both_BF = oriented_gradients(x[:, 0]) + oriented_gradients(x.flip(3)[:, 0])
    torch.testing.assert_close(FACES.build().description.describe(x), both_BF)
    x = samples(COLOURS)
    described_BF = COLOURS.build().description.describe(x)
    assert described_BF.shape[1] == COLOURS.described == 36 + 216
    torch.testing.assert_close(described_BF[:, :36], oriented_gradients(x.mean(1)) / 4)
    torch.testing.assert_close(described_BF[:, 36:], colour_histogram(x))
    x = samples(VOICES)
    torch.testing.assert_close(VOICES.build().description.describe(x), cepstral_statistics(x[:, 0]))
    assert cepstral_statistics(x[:, 0]).shape[1] == CEPSTRAL_STATISTICS == VOICES.described


@pytest.mark.parametrize("config", [FACES, COLOURS, SIGNED, VOICES])
def test_an_empty_sample_has_a_vector(config):
    x = torch.zeros_like(samples(config, 1))
    vectors_BD = fitted(config, 0.8)(x)
    assert torch.isfinite(vectors_BD).all()
    torch.testing.assert_close(vectors_BD.norm(dim=1), torch.ones(1))


def test_silence_is_described_by_nothing_much():
    """And not by its rounding errors, which every machine has of its own."""
    assert cepstral_statistics(torch.zeros(1, 8000)).norm() < 0.01
    assert cepstral_statistics(torch.randn(1, 8000) * 1e-3).norm() == pytest.approx(1, abs=1e-5)


def test_large_pictures_have_larger_cells_and_not_more_numbers():
    assert DescribedConfig(ConvEncoderConfig(1, 64, 64), embedding_dim=256).described == 36 * 7 * 7
    large = DescribedConfig(ConvEncoderConfig(1, 512, 512), embedding_dim=256)
    assert large.described == 36 * 7 * 7 and large.cell == 64
    assert SIGNED.described == 36 * 2 * 3 and SIGNED.cell == 10  # as the network has them
    assert large.build().description.describe(torch.randn(2, 1, 512, 512)).shape == (2, 36 * 7 * 7)


def by_definition(x_MF: np.ndarray, labels_M: np.ndarray, width: int) -> np.ndarray:
    """The map, one identity at a time."""
    middle_F = x_MF.mean(axis=0)
    covariance_FF = np.cov(x_MF.T, bias=True)
    variance_F, directions_FF = np.linalg.eigh(covariance_FF)
    map_FK = directions_FF[:, np.argsort(-variance_F)[:width]]
    within_KK = np.zeros((width, width))
    for label in np.unique(labels_M):
        own_SK = (x_MF[labels_M == label] - middle_F) @ map_FK
        if len(own_SK) > 1:
            within_KK += np.cov(own_SK.T, bias=False)
    within_KK /= (np.unique(labels_M, return_counts=True)[1] > 1).sum()
    within_KK += 0.1 * np.trace(within_KK) / width * np.eye(width)
    spread_K, turn_KK = np.linalg.eigh(within_KK)
    return map_FK @ turn_KK @ np.diag(spread_K**-0.5) @ turn_KK.T


def cosines(x_MK: np.ndarray) -> np.ndarray:
    x_MK = x_MK / np.linalg.norm(x_MK, axis=1, keepdims=True)
    return x_MK @ x_MK.T


@pytest.mark.parametrize("width", [9, 59, 60, 150])
def test_the_map_is_that_of_the_definition(width):
    """The sign of a direction is nobody's choice, and the scale no matter: the similarities are compared.

    Fewer numbers than samples and more.
    """
    random = np.random.default_rng(0)
    labels_M = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 3] * 5) + np.repeat(np.arange(5), 12) * 4
    own_F = random.normal(size=(20, width)) * 2
    x_MF = own_F[labels_M] + random.normal(size=(60, width)) * np.linspace(0.1, 3, width)
    middle, known = fit_description(x_MF.astype(np.float64), labels_M, 5)
    expected = cosines((x_MF - x_MF.mean(axis=0)) @ by_definition(x_MF, labels_M, 5))
    found = cosines((x_MF - middle.double().numpy()) @ known.double().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)  # the map is kept in float32


def test_directions_in_which_an_identity_varies_count_for_less():
    """Two numbers of one size, of which the first says who it is and the second is noise."""
    random = np.random.default_rng(0)
    labels_M = np.arange(400) // 4
    who_M = random.normal(size=100)[labels_M]
    x_MF = np.stack([who_M, random.normal(size=400)], axis=1) + random.normal(size=(400, 2)) * 0.05
    _, known = fit_description(x_MF, labels_M, 2)
    first, second = known.norm(dim=1)
    assert first > 2.5 * second  # no further, for the shrinkage


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 8), st.integers(0, 3), st.booleans())
def test_whatever_there_is_to_fit_the_map_is_finite(count, people, width, spare, same):
    """Fewer samples than numbers, one sample an identity, all samples the same."""
    random = np.random.default_rng(count)
    x_MF = random.normal(size=(count, width + spare)).astype(np.float32)
    if same:
        x_MF[:] = x_MF[0]
    middle, known = fit_description(x_MF, np.arange(count) % people, width)
    assert known.shape == (width + spare, width) and torch.isfinite(known).all() and torch.isfinite(middle).all()
    rank = min(width, count - 1)
    assert (known[:, rank:] == 0).all()
    assert same or count == 1 or (known[:, 0] != 0).any()


@pytest.mark.parametrize("config", [FACES, COLOURS, SIGNED, VOICES])
def test_the_configuration_survives_json_and_builds_the_same_network(config):
    assert read_encoder(config.to_json()) == config
    torch.manual_seed(0)
    first = config.build().state_dict()
    torch.manual_seed(0)
    second = build_encoder(config.to_json()).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert config.with_embedding_dim(config.embedding_dim).embedding_dim == config.embedding_dim


def test_colours_that_were_described_by_a_thumbnail_are_refused():
    before = {key: value for key, value in COLOURS.to_json().items() if key != "colours"}
    with pytest.raises(InvalidInput, match="described the colours of pictures otherwise; train it again"):
        read_encoder(before)
    assert "colours" not in FACES.to_json()


@pytest.mark.parametrize("name", [name for name in task_names() if name != "digits"])
def test_a_task_asked_for_its_own_width_is_the_same(name):
    encoder = load_task(name).encoder
    assert encoder.with_embedding_dim(encoder.embedding_dim) == encoder


def test_half_of_the_width_is_the_descriptions_as_far_as_that_goes():
    with pytest.raises(InvalidInput, match="embedding_dim=6: half of it is the description's, and"):
        load_task("signatures").encoder.with_embedding_dim(6)
    assert VOICES.with_embedding_dim(40).known == 20
    assert VOICES.with_embedding_dim(400).known == CEPSTRAL_STATISTICS
    assert VOICES.with_embedding_dim(400).network.embedding_dim == 400 - CEPSTRAL_STATISTICS
    assert VOICES.with_embedding_dim(2).known == 1


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: DescribedConfig(FACES.network, embedding_dim=6), "from 7 to"),
        (lambda: DescribedConfig(VOICES.network, embedding_dim=65), "from 7 to 64"),
        (lambda: DescribedConfig(ConvEncoderConfig(1, 12, 40), embedding_dim=200), "16 x 16"),
        (lambda: VOICES.with_embedding_dim(1), "embedding_dim"),
        (lambda: VOICES.with_embedding_dim(4097), "embedding_dim=4097"),
        (lambda: read_encoder(FACES.to_json() | {"network": None}), "network"),
        (lambda: read_encoder(FACES.to_json() | {"network": FACES.to_json()}), "network must be one of convnet, dra"),
        (lambda: read_encoder(FACES.to_json() | {"more": 1}), "keys"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(wrong, named):
    with pytest.raises(InvalidInput, match=named):
        wrong()


def white_by_definition(x_MN: np.ndarray, labels_M: np.ndarray) -> np.ndarray:
    """The whitened half of the product and the other, one identity at a time: what A A comes to."""
    width = x_MN.shape[1]
    own = [x_MN[labels_M == label] for label in np.unique(labels_M)]
    within_NN = np.mean([np.cov(x_SN.T, bias=False) for x_SN in own if len(x_SN) > 1], axis=0)
    inverse_NN = np.linalg.inv(within_NN + 0.1 * np.trace(within_NN) / width * np.eye(width))
    length = np.mean([x_N @ inverse_NN @ x_N for x_N in x_MN])
    return (np.eye(width) + inverse_NN / length) / 2


def unit_rows(rows: int, width: int, seed: int = 0) -> np.ndarray:
    x_MN = np.random.default_rng(seed).normal(size=(rows, width))
    return (x_MN / np.linalg.norm(x_MN, axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(2, 8), st.integers(2, 7), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_whitening_is_that_of_the_definition(width, identities, seed):
    labels_M = np.concatenate([np.arange(identities), np.random.default_rng(seed).integers(0, identities, 3 * width)])
    x_MN = unit_rows(len(labels_M), width, seed)
    a_NN = fit_whitening(x_MN, labels_M).double().numpy()
    np.testing.assert_allclose(a_NN, a_NN.T, atol=1e-6)
    np.testing.assert_allclose(
        a_NN @ a_NN, white_by_definition(x_MN.astype(np.float64), labels_M), rtol=1e-4, atol=1e-4
    )


def test_a_direction_in_which_identities_vary_counts_less():
    random = np.random.default_rng(0)
    middle_IN = np.repeat(unit_rows(20, 4), 10, axis=0)
    x_MN = middle_IN + random.normal(size=middle_IN.shape) * [0.5, 0.05, 0.05, 0.05]
    x_MN /= np.linalg.norm(x_MN, axis=1, keepdims=True)
    loud, *quiet = np.diag(fit_whitening(x_MN.astype(np.float32), np.repeat(np.arange(20), 10)).numpy())
    assert loud < 0.85 * min(quiet)


def test_where_nothing_varies_within_an_identity_nothing_is_whitened():
    x_MN = unit_rows(5, 3)
    for labels_M, rows in ((np.arange(5), x_MN), (np.repeat(np.arange(5), 2), np.repeat(x_MN, 2, axis=0))):
        np.testing.assert_allclose(fit_whitening(rows, labels_M), np.eye(3), atol=1e-6)


def test_of_vectors_without_a_length_nothing_is_whitened():
    assert torch.equal(fit_whitening(np.zeros((6, 3), np.float32), np.arange(6) // 2), torch.eye(3))


@pytest.mark.parametrize("config", [FACES, COLOURS, SIGNED, VOICES])
def test_vectors_in_use_are_whitened_those_that_learn_are_not_and_one_gives_the_other(config):
    x = samples(config)
    encoder = fitted(config, 0.4)
    with torch.no_grad():
        network_BN = encoder.network(x)
        width = network_BN.shape[1]
        a_NN = fit_whitening(unit_rows(40, width), np.arange(40) % 5)
        encoder.whitening.copy_(a_NN)
        vectors_BD = encoder(x)
        white_BN = torch.nn.functional.normalize(network_BN @ a_NN, dim=1)
        torch.testing.assert_close(vectors_BD[:, :width], 0.6**0.5 * white_BN, atol=1e-5, rtol=0)
        torch.testing.assert_close(encoder.as_trained(vectors_BD), network_BN, atol=1e-4, rtol=0)
        torch.testing.assert_close(encoder.train()(x), encoder.network(x))


def test_weights_from_before_there_was_a_whitening_load_as_they_were():
    encoder = fitted(FACES, 0.4)
    before = {name: tensor for name, tensor in encoder.state_dict().items() if name != "whitening"}
    again = FACES.build().eval()
    again.whitening.fill_(3.0)
    again.load_state_dict(before)
    x = samples(FACES)
    with torch.no_grad():
        assert torch.equal(encoder(x), again(x))
