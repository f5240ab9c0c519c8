from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tercet.data.hog import oriented_gradients


def by_loops(x_HW: np.ndarray, *, cell: int, orientations: int) -> np.ndarray:
    """The definition, pixel by pixel."""
    height, width = x_HW.shape[0] // cell, x_HW.shape[1] // cell
    cells = np.zeros((height, width, orientations))
    rows, columns = height * cell, width * cell
    for i in range(rows):
        for j in range(columns):
            dy = (x_HW[i + 1, j] - x_HW[i - 1, j]) / 2 if 0 < i < rows - 1 else 0.0
            dx = (x_HW[i, j + 1] - x_HW[i, j - 1]) / 2 if 0 < j < columns - 1 else 0.0
            place = (math.atan2(dy, dx) / math.pi) % 1 * orientations
            lower = math.floor(place)
            length = math.hypot(dx, dy)
            cells[i // cell, j // cell, lower % orientations] += (1 - place + lower) * length
            cells[i // cell, j // cell, (lower + 1) % orientations] += (place - lower) * length
    blocks = []
    for i in range(height - 1):
        for j in range(width - 1):
            block = cells[i : i + 2, j : j + 2].transpose(2, 0, 1).ravel() / cell**2
            block = np.minimum(block / max(np.linalg.norm(block), 1e-6), 0.2)
            blocks.append(block / max(np.linalg.norm(block), 1e-6))
    vector = np.stack(blocks, axis=1).ravel()
    return vector / max(np.linalg.norm(vector), 1e-12)


def test_the_vectors_are_those_of_the_definition():
    x_BHW = np.random.default_rng(0).random((3, 18, 25))
    found = oriented_gradients(torch.from_numpy(x_BHW), cell=6, orientations=5)
    wanted = np.stack([by_loops(x_HW, cell=6, orientations=5) for x_HW in x_BHW])
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)


def test_a_picture_without_a_gradient_is_zero_and_brightness_has_no_part():
    x_BHW = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_BHW[0] = 0.3
    found = oriented_gradients(x_BHW)
    assert not found[0].any()
    assert float(found[1].norm()) == pytest.approx(1)
    torch.testing.assert_close(oriented_gradients(x_BHW + 0.2), found)
    torch.testing.assert_close(oriented_gradients(3 * x_BHW), found)
