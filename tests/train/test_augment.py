import pytest
import torch

from tercet.errors import InvalidInput
from tercet.train.augment import affine, erase, identity_skews, light, stroke


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(batch=6, channels=3, height=12, width=16):
    return torch.rand(batch, channels, height, width, generator=seeded(9)) * 2 - 1


CHANGES = {
    "affine": lambda x, g: affine(x, g, shift=0.2, zoom=(0.8, 1.3), stretch=0.2, degrees=20, skew=0.1, flip=True),
    "light": lambda x, g: light(x, g, contrast=0.4, brightness=0.3, slope=0.3),
    "tint": lambda x, g: light(x, g, tint=0.3),
    "erase": lambda x, g: erase(x, g, side=0.6, share=1.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_follows_its_generator_keeps_the_form_and_differs_from_picture_to_picture(name):
    x = pictures()
    kept = x.clone()
    state = torch.random.get_rng_state()
    changed = CHANGES[name](x, seeded(1))
    assert torch.equal(torch.random.get_rng_state(), state), "nothing is drawn elsewhere"
    assert changed.shape == x.shape and changed.dtype == x.dtype
    assert torch.equal(x, kept), "the input is left as it was"
    assert torch.equal(CHANGES[name](x, seeded(1)), changed)
    assert not torch.equal(CHANGES[name](x, seeded(2)), changed)
    assert changed.min() >= -1 - 1e-5 and changed.max() <= 1 + 1e-5
    alike = CHANGES[name](x[:1].expand_as(x).clone(), seeded(1))
    assert (alike[1:] - alike[:1]).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_no_change_asked_for_is_no_change():
    x = pictures()
    torch.testing.assert_close(affine(x, seeded()), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(light(x, seeded()), x, rtol=0, atol=1e-6)
    assert torch.equal(erase(x, seeded(), side=0.5, share=0.0), x)


def test_light_is_the_tint_first_then_contrast_about_the_mean_and_brightness():
    x = 0.3 * pictures()
    batch, channels = x.shape[:2]
    draws = seeded(5)
    gain = torch.exp(-0.2 + 0.4 * torch.rand(batch, generator=draws)).view(-1, 1, 1, 1)
    offset = (-0.1 + 0.2 * torch.rand(batch, generator=draws)).view(-1, 1, 1, 1)
    of_channel = torch.exp(-0.3 + 0.6 * torch.rand(batch * channels, generator=draws)).view(batch, channels, 1, 1)
    tinted = (x + 1) * of_channel - 1
    mean = tinted.mean(dim=(1, 2, 3), keepdim=True)
    wanted = (mean + (tinted - mean) * gain + offset).clamp(-1, 1)
    torch.testing.assert_close(light(x, seeded(5), contrast=0.2, brightness=0.1, tint=0.3), wanted, rtol=0, atol=1e-5)
    black = torch.full((4, 3, 5, 5), -1.0)
    torch.testing.assert_close(light(black, seeded(), tint=0.5), black, rtol=0, atol=1e-6)


def test_flip_alone_mirrors_about_half_of_the_pictures_exactly():
    x = pictures(batch=64)
    flipped = affine(x, seeded(), flip=True)
    same = torch.isclose(flipped, x, atol=1e-5).all(dim=3).all(dim=2).all(dim=1)
    mirrored = torch.isclose(flipped, x.flip(3), atol=1e-5).all(dim=3).all(dim=2).all(dim=1)
    assert bool((same ^ mirrored).all()) and 16 < int(mirrored.sum()) < 48


def test_shift_is_a_share_of_the_side():
    x = torch.zeros(200, 1, 21, 41)
    x[:, :, 10, 20] = 1
    moved = affine(x, seeded(), shift=0.1)
    row = (moved.sum(dim=(1, 3)) * torch.arange(21)).sum(1) - 10
    column = (moved.sum(dim=(1, 2)) * torch.arange(41)).sum(1) - 20
    assert 1.7 < float(row.abs().max()) < 2.3
    assert 3.5 < float(column.abs().max()) < 4.3


def test_a_turn_keeps_right_angles_where_the_picture_is_not_square():
    """A small disc far from the centre of a wide picture stays as far from it, in pixels."""
    x = torch.zeros(50, 1, 41, 81)
    x[:, :, 19:22, 58:61] = 1
    turned = affine(x, seeded(), degrees=30)
    mass = turned.sum(dim=(1, 2, 3))
    row = (turned.sum(dim=(1, 3)) * torch.arange(41)).sum(1) / mass - 20
    column = (turned.sum(dim=(1, 2)) * torch.arange(81)).sum(1) / mass - 40
    assert float(row.abs().max()) > 8
    torch.testing.assert_close(torch.hypot(row, column), torch.full((50,), 19.0), rtol=0, atol=0.3)


def test_erase_covers_with_the_mean_and_leaves_the_rest():
    x = pictures(batch=40)
    erased = erase(x, seeded(), side=0.5, share=1.0)
    changed = (erased != x).any(dim=1)
    mean = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    torch.testing.assert_close(erased[changed[:, None].expand_as(x)], mean[changed[:, None].expand_as(x)])
    share = changed.float().mean(dim=(1, 2))
    assert 0.2 < float(share.max()) <= 0.3 and float(share.min()) < 0.05
    with pytest.raises(InvalidInput, match=r"side must be from 0 to 1, got 1\.5"):
        erase(x, seeded(), side=1.5)


def skew(x, labels, generator, share):
    skews = identity_skews(labels, generator, share=share, strength=0.4)
    return affine(x, generator, skews_B22=skews)


def test_all_pictures_of_an_identity_change_in_the_same_way_and_identities_in_different_ways():
    x = pictures(batch=1, height=9, width=9).expand(60, -1, -1, -1).clone()
    labels = torch.arange(60) % 20 * 7
    changed = skew(x, labels, seeded(1), share=1.0)
    for label in labels.unique():
        group = changed[labels == label]
        assert torch.equal(group, group[:1].expand_as(group))
    assert len({tuple(picture.flatten().tolist()) for picture in changed}) == 20
    assert torch.equal(skew(x, labels, seeded(1), share=1.0), changed)
    torch.testing.assert_close(skew(x, labels, seeded(1), share=0.0), x, rtol=0, atol=1e-5)
    some = skew(x, labels, seeded(1), share=0.5)
    unchanged = [torch.allclose(some[labels == y], x[labels == y], atol=1e-5) for y in labels.unique()]
    assert 5 < sum(unchanged) < 16


def test_a_picture_is_skewed_first_and_then_moved_as_if_in_two_resamplings():
    """Of a picture that is linear in its places every resampling is exact, away from the border."""
    down, across = torch.meshgrid(torch.linspace(-1, 1, 17), torch.linspace(-1, 1, 23), indexing="ij")
    x = (0.3 * down + 0.2 * across).expand(8, 1, 17, 23).clone()
    skews = identity_skews(torch.arange(8) // 2, seeded(3), share=1.0, strength=0.1)
    moves = {"shift": 0.05, "zoom": (1.2, 1.3), "degrees": 10, "flip": True}
    twice = affine(affine(x, seeded(), skews_B22=skews), seeded(4), **moves)
    once = affine(x, seeded(4), **moves, skews_B22=skews)
    inner = (slice(None), slice(None), slice(5, 12), slice(7, 16))
    torch.testing.assert_close(once[inner], twice[inner], rtol=0, atol=1e-5)
    assert not torch.allclose(once[inner], affine(x, seeded(4), **moves)[inner], atol=1e-3)


SKEWS = {
    "of identities": lambda x: affine(
        x, seeded(), skews_B22=identity_skews(torch.arange(200), seeded(), share=1.0, strength=0.2)
    ),
    "of pictures": lambda x: affine(x, seeded(), skew=0.2),
}


@pytest.mark.parametrize("name", SKEWS)
def test_a_skew_is_as_strong_as_asked_for(name):
    """A small disc off the centre goes where the inverse of the drawn map takes it, within the strength."""
    x = torch.zeros(200, 1, 41, 41)
    x[:, :, 28:31, 19:22] = 1
    moved = SKEWS[name](x)
    mass = moved.sum(dim=(1, 2, 3))
    row = (moved.sum(dim=(1, 3)) * torch.arange(41)).sum(1) / mass - 20
    column = (moved.sum(dim=(1, 2)) * torch.arange(41)).sum(1) / mass - 20
    assert 7.2 < float(row.min()) < 8.2 and 10.2 < float(row.max()) < 12.5
    assert 1.5 < float(column.abs().max()) < 2.9


def test_a_broader_pen_is_a_dilation_and_a_finer_one_an_erosion():
    x = torch.rand(12, 1, 7, 9, generator=torch.Generator().manual_seed(1)) * 2 - 1
    share = torch.empty(12)
    share.copy_(-0.4 + 1.1 * torch.rand(12, generator=torch.Generator().manual_seed(2)))
    dilated = torch.nn.functional.max_pool2d(x, 3, stride=1, padding=1)
    eroded = -torch.nn.functional.max_pool2d(-x, 3, stride=1, padding=1)
    assert 0 < (share < 0).sum() < 12
    wanted = torch.lerp(x, torch.where(share.view(-1, 1, 1, 1) < 0, eroded, dilated), share.abs().view(-1, 1, 1, 1))
    before = x.clone()
    changed = stroke(x, torch.Generator().manual_seed(2), thinner=0.4, thicker=0.7)
    torch.testing.assert_close(changed, wanted, rtol=0, atol=1e-6)
    assert torch.equal(x, before)  # the batch that was passed in is the caller's


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pictures_of_another_precision_are_resampled_as_well(dtype):
    x = pictures(batch=4)
    wanted = affine(x, seeded(), shift=0.1, degrees=20)
    found = affine(x.to(dtype), seeded(), shift=0.1, degrees=20)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, atol=0.2 if dtype == torch.bfloat16 else 0.05, rtol=0)
