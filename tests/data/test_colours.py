from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from tercet.data.colours import COLOURS, colour_histogram


def by_loops(x_3HW: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel."""
    votes = np.zeros((6, 6, 6))
    for pixel in x_3HW.reshape(3, -1).T:
        places = [(min(max(value, -1.0), 1.0) + 1) * 2.5 for value in pixel]
        lower = [min(math.floor(place), 4) for place in places]
        for steps in itertools.product((0, 1), repeat=3):
            share = 1.0
            for place, low, step in zip(places, lower, steps, strict=True):
                share *= place - low if step else 1 - place + low
            votes[tuple(low + step for low, step in zip(lower, steps, strict=True))] += share
    return np.sqrt(votes.ravel() / votes.sum())


def test_the_numbers_are_those_of_the_definition():
    x_B3HW = np.random.default_rng(0).uniform(-1.1, 1.1, size=(3, 3, 9, 7))
    found = colour_histogram(torch.from_numpy(x_B3HW))
    assert found.shape == (3, COLOURS)
    np.testing.assert_allclose(found.numpy(), np.stack([by_loops(x_3HW) for x_3HW in x_B3HW]), atol=1e-9)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_where_a_colour_is_does_not_matter_and_which_it_is_does():
    red, green = torch.full((1, 3, 8, 8), -1.0), torch.full((1, 3, 8, 8), -1.0)
    red[:, 0], green[:, 1] = 1.0, 1.0
    mixed = red.clone()
    mixed[:, :, :4] = green[:, :, :4]
    assert torch.equal(colour_histogram(mixed), colour_histogram(mixed.flip(2)))
    similar = (colour_histogram(red) @ colour_histogram(torch.cat([red, green, mixed])).T)[0]
    torch.testing.assert_close(similar, torch.tensor([1.0, 0.0, 0.5**0.5]))


def test_large_pictures_are_averaged_down_first():
    x_B3HW = torch.rand(2, 3, 260, 200) * 2 - 1
    smaller = torch.nn.functional.avg_pool2d(x_B3HW, 3)  # 228 = the root of 260 x 200 has three times 64
    torch.testing.assert_close(colour_histogram(x_B3HW), colour_histogram(smaller))
    assert colour_histogram(torch.rand(2, 3, 30_000, 1)).isfinite().all(), "too narrow to be averaged"
