from __future__ import annotations

import pytest
import torch

from tercet.tasks import load_task
from tercet.train.augment_ink import rewrite

STILL = {
    "share": 0.0,
    "skew": 0.0,
    "bend": 0.0,
    "tremble": 0.0,
    "shift": 0.0,
    "zoom": 0.0,
    "stretch": 0.0,
    "degrees": 0.0,
}


def smooth(count: int = 6) -> torch.Tensor:
    """Bright blobs on black, all alike."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-2, 2, 64), indexing="ij")
    one = sum(torch.exp(-((x - a) ** 2 + (y - b) ** 2) * 12) for a, b in ((-1.2, 0.3), (0.0, -0.4), (0.9, 0.5)))
    return (2 * one.clamp(max=1) - 1).expand(count, 1, 32, 64).clone()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_any_change_the_pictures_stay_as_they_are():
    x = smooth()
    torch.testing.assert_close(rewrite(x, torch.arange(6), seeded(), **STILL), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", [{"bend": 0.2}, {"skew": 0.3}])
def test_an_identity_is_bent_as_one_and_each_in_its_own_way(change):
    labels = torch.tensor([7, 7, 3, 3, 9, 9])
    found = rewrite(smooth(), labels, seeded(), **(STILL | {"share": 1.0} | change))
    torch.testing.assert_close(found[0::2], found[1::2])
    assert float((found[0] - found[2]).abs().max()) > 0.2
    assert float((found[0] - smooth(1)[0]).abs().max()) > 0.2


def test_only_a_share_of_the_identities_becomes_others():
    found = rewrite(smooth(200), torch.arange(200), seeded(), **(STILL | {"share": 0.3, "bend": 0.2}))
    changed = (found - smooth(200)).abs().amax(dim=(1, 2, 3)) > 0.05
    assert 0.2 < float(changed.float().mean()) < 0.4


@pytest.mark.parametrize(
    "change", [{"tremble": 0.1}, {"shift": 0.2}, {"zoom": 0.2}, {"stretch": 0.3}, {"degrees": 20.0}]
)
def test_samples_of_one_identity_each_change_in_their_own_way(change):
    found = rewrite(smooth(), torch.zeros(6, dtype=torch.int64), seeded(), **(STILL | change))
    assert float((found[0] - found[1]).abs().max()) > 0.1
    assert float((found[0] - smooth(1)[0]).abs().max()) > 0.02


def test_a_turn_keeps_lengths_on_a_frame_that_is_not_square():
    x = torch.full((1, 1, 64, 128), -1.0)
    x[0, 0, 30:34, 40:88] = 1.0
    found = rewrite(x, torch.zeros(1, dtype=torch.int64), seeded(3), **(STILL | {"degrees": 45.0}))
    rows, columns = (found[0, 0] > 0).nonzero(as_tuple=True)
    length = float(((rows.max() - rows.min()) ** 2 + (columns.max() - columns.min()) ** 2) ** 0.5)
    assert int(rows.max() - rows.min()) > 8, "it has turned"
    assert length == pytest.approx(48, abs=4)


def test_the_same_draws_give_the_same_batch():
    x, labels = smooth(), torch.tensor([0, 0, 1, 1, 2, 2])
    augment = load_task("signatures").augment
    first, again, other = (augment(x, labels, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == x.shape
    assert float(first.min()) >= -1.0
    assert float(first.max()) <= 1.0


def test_the_task_never_mirrors():
    """The middle of the ink on the left stays left, in any of many draws."""
    x = torch.full((64, 1, 64, 128), -1.0)
    x[:, :, 20:44, 8:30] = 1.0
    found = load_task("signatures").augment(x, torch.arange(64), seeded()) + 1
    centre = (found.sum(dim=(1, 2)) * torch.arange(128)).sum(dim=1) / found.sum(dim=(1, 2, 3)).clamp(min=1)
    assert (centre < 64).all()
