from __future__ import annotations

import pytest
import torch

from tercet.tasks import load_task
from tercet.train.augment_audio import add_noise, cut, limit_band, reverberate, tune, waves

RATE = 16_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tone(hertz, seconds=2.0, rows=1):
    return (0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * RATE)) / RATE)).repeat(rows, 1, 1)


def loudest(x_B1N):
    """The frequency of the strongest part of each row, in Hz."""
    power_BK = torch.fft.rfft(x_B1N[:, 0] * torch.hann_window(x_B1N.shape[2])).abs()
    return power_BK.argmax(dim=1) * RATE / x_B1N.shape[2]


def power(spectrum_BK, low, high):
    """The share of the power between two frequencies."""
    hertz_K = torch.linspace(0, RATE / 2, spectrum_BK.shape[1])
    power_BK = spectrum_BK.abs().square()
    return power_BK[:, (hertz_K >= low) & (hertz_K < high)].sum(1) / power_BK.sum(1)


def test_a_part_is_a_part_and_begins_again_at_the_end():
    x_B1N = torch.rand(6, 1, 4 * RATE) - 0.5
    part = waves(cut(x_B1N, torch.arange(6), seeded(), seconds=2.0))
    assert part.shape == (6, 1, 2 * RATE)
    for row in range(6):
        round_N = x_B1N[row, 0].repeat(2)
        start = int(torch.fft.irfft(torch.fft.rfft(round_N).conj() * torch.fft.rfft(part[row, 0], n=8 * RATE)).argmax())
        found_N = round_N[(8 * RATE - start) % (4 * RATE) :][: 2 * RATE]
        assert torch.corrcoef(torch.stack([found_N, part[row, 0]]))[0, 1] > 0.999
    longer = waves(cut(x_B1N[:, :, :RATE], torch.arange(6), seeded(), seconds=2.0))
    assert torch.allclose(longer[:, :, :RATE], longer[:, :, RATE:], atol=1e-4)


@pytest.mark.parametrize("speed", [0.8, 0.9, 1.1, 1.25])
def test_speed_changes_the_pitch_in_proportion(speed):
    fast = waves(cut(tone(1000, 4.0), torch.zeros(1), seeded(), seconds=2.0, speeds=(speed,)))
    assert float(loudest(fast)) == pytest.approx(1000 * speed, abs=1.5)


def test_the_rows_of_an_identity_share_their_speed_and_identities_do_not():
    labels_B = torch.arange(40).repeat_interleave(3)[torch.randperm(120, generator=seeded(1))]
    pitch_B = loudest(
        waves(cut(tone(1000, 3.0, rows=120), labels_B, seeded(), seconds=1.0, speeds=(0.8, 0.9, 1.0, 1.1)))
    )
    of_identity = [set((pitch_B[labels_B == label] / 20).round().tolist()) for label in range(40)]
    assert all(len(pitches) == 1 for pitches in of_identity)
    assert set.union(*of_identity) == {40.0, 45.0, 50.0, 55.0}


def test_a_room_leaves_an_echo_behind():
    """A click in silence is followed by sound that gets weaker; without a room there is none."""
    click = torch.zeros(4, 1, 2 * RATE)
    click[:, :, 100] = 0.9
    spectrum_BK = torch.fft.rfft(click[:, 0])
    after = waves(reverberate(spectrum_BK.clone(), seeded(), share=1.0))[:, 0, 200:]
    assert (after[:, :800].norm(dim=1) > 5 * after[:, 6000:6800].norm(dim=1)).all()
    assert (after[:, :800].norm(dim=1) > 1e-2).all()
    assert torch.equal(reverberate(spectrum_BK.clone(), seeded(), share=0.0), spectrum_BK)


def test_noise_has_the_strength_that_is_asked_for():
    spectrum_BK = torch.fft.rfft(torch.rand(60, 2 * RATE) - 0.5)
    noisy = add_noise(spectrum_BK.clone(), seeded(), share=0.5, decibels=(10.0, 10.0))
    ratio_B = 10 * torch.log10(
        spectrum_BK.abs().square().sum(1) / (noisy - spectrum_BK).abs().square().sum(1).clamp_min(1e-20)
    )
    touched = ratio_B < 50
    assert 20 < int(touched.sum()) < 40
    assert torch.allclose(ratio_B[touched], torch.tensor(10.0), atol=0.01)
    # Half of it is coloured: stronger below than above.
    low_B = power((noisy - spectrum_BK)[touched], 0, 2000)
    assert 0.2 < float((low_B > 0.5).float().mean()) < 0.8


def test_a_line_is_narrow_and_a_microphone_is_not_flat():
    spectrum_BK = torch.fft.rfft(torch.rand(8, 2 * RATE) - 0.5)
    narrow = limit_band(spectrum_BK.clone(), seeded(), share=1.0)
    assert (power(narrow, 0, 60) < 0.1 * power(spectrum_BK, 0, 60)).all()
    assert (power(narrow, 7600, 8000) < 0.4 * power(spectrum_BK, 7600, 8000)).all()
    gain_BK = 20 * torch.log10(tune(spectrum_BK.clone(), seeded(), decibels=6.0).abs() / spectrum_BK.abs())
    assert gain_BK.abs().max() <= 6.0001 and (gain_BK.amax(1) - gain_BK.amin(1) > 3).all()
    assert (gain_BK.diff(dim=1).abs().max()) < 1.0
    for change in (
        limit_band(spectrum_BK.clone(), seeded(), share=0.0),
        tune(spectrum_BK.clone(), seeded(), decibels=0.0),
    ):
        assert torch.allclose(change, spectrum_BK)


def test_the_line_passes_what_its_filters_say():
    """High pass of the second order in amplitude, low pass of the eighth, with edges drawn as they are."""
    spectrum_BK = torch.ones(5, 801, dtype=torch.complex64)
    generator = seeded(3)
    order = torch.randperm(5, generator=generator)[torch.rand(5, generator=generator) < 1.0]
    low_B = 100 + 250 * torch.rand(5, generator=generator)
    high_B = 3000 + 4000 * torch.rand(5, generator=generator)
    found_BK = limit_band(spectrum_BK, seeded(3), share=1.0)
    hertz_K = torch.linspace(0, RATE / 2, 801).clamp_min(1.0)
    for row, low, high in zip(order.tolist(), low_B, high_B, strict=True):
        expected_K = 1 / ((1 + (low / hertz_K) ** 4) * (1 + (hertz_K / high) ** 16))
        torch.testing.assert_close(found_BK[row].real, expected_K, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", ["speakers", "signatures", "faces", "images", "characters"])
def test_what_is_changed_in_place_is_not_what_was_given(task):
    task = load_task(task)
    shape = (8, 1, 2 * RATE) if task.name == "speakers" else (8, *task.front_end.shape)
    x = torch.rand(shape) - 0.5
    before = x.clone()
    assert not torch.equal(task.augment(x, torch.arange(8) // 2, seeded()), before)
    assert torch.equal(x, before)


def test_all_of_it_follows_from_the_generator_and_stays_finite():
    augment = load_task("speakers").augment
    x_B1N, labels_B = torch.rand(12, 1, 4 * RATE) - 0.5, torch.arange(12) // 3
    x_B1N[3] = 0  # nothing to scale
    first, again, other = (augment(x_B1N, labels_B, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.isfinite().all() and first.abs().max() <= 0.9001
