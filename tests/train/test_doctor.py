"""Each finding at its sign, none in health, once each; and what the care does about an alarm."""

import json
import math
from dataclasses import replace

import pytest
import torch

from tercet.errors import RunError
from tercet.functional.options import MINING
from tercet.train.care import Care
from tercet.train.doctor import Doctor, Verdict
from tercet.train.vitals import Vitals

HEALTHY = Vitals(
    distance=0.9,
    spread=1.1,
    rank=20.0,
    active=0.3,
    to_margin=-0.5,
    without_positive=0.0,
    without_negative=0.0,
    norm=1.0,
    conflicts=0,
    loss=0.1,
)


def looks(doctor, vitals, times=30, gradient_norm=1.0, mean_over_margin=9.0):
    """The kinds of the remarks, and the last verdict."""
    kinds, verdict = [], None
    for step in range(times):
        verdict = doctor.look(step, vitals, gradient_norm=gradient_norm, mean_over_margin=mean_over_margin)
        kinds += [remark.kind for remark in verdict.remarks]
    return kinds, verdict


def test_in_health_nothing_is_said():
    kinds, verdict = looks(Doctor(), HEALTHY, 500)
    assert kinds == [] and verdict.alarm is None


@pytest.mark.parametrize(
    "sign, kind, alarm",
    [
        ({"distance": 0.005, "to_margin": 0.0, "active": 1.0}, "collapse", "collapse"),
        ({"rank": 1.5}, "few-directions", None),
        ({"active": 0.0001}, "idle", None),
        ({"without_positive": 0.8}, "few-positives", None),
        ({"conflicts": 2}, "conflict", None),
        ({"active": math.nan, "without_negative": 1.0}, "no-negative", None),
        ({"active": math.nan, "without_positive": 1.0}, "no-positive", None),
        ({"loss": math.nan}, "not-finite", "not-finite"),
    ],
)
def test_each_sign_is_named_once_and_never_called_healthy_where_it_is_not(sign, kind, alarm):
    doctor = Doctor()
    kinds, verdict = looks(doctor, replace(HEALTHY, **sign), 120)
    assert kinds == [kind]
    assert verdict.alarm == alarm
    assert [remark.kind for remark in doctor.remarks] == [kind]
    assert doctor.remarks[0].text and "\n" not in doctor.remarks[0].text
    if alarm or kind == "few-directions":
        assert not doctor.healthy


def test_a_batch_that_cannot_teach_is_named_at_the_first_step():
    for sign, kind in (("without_positive", "no-positive"), ("without_negative", "no-negative")):
        verdict = Doctor().look(
            0, replace(HEALTHY, active=math.nan, **{sign: 1.0}), gradient_norm=0.0, mean_over_margin=9.0
        )
        assert [(remark.step, remark.kind) for remark in verdict.remarks] == [(0, kind)]


def sphere(rows=32, width=16):
    x_BD = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(x_BD, dim=1)


def on_one_line(x_BD):
    return torch.nn.functional.normalize(x_BD[:, :1] * torch.eye(16)[0] + 0.01 * x_BD, dim=1)


def twice(x_BD):
    return torch.cat([x_BD[:4], x_BD[:4], x_BD[8:]])


FOURS = torch.arange(32) // 4


@pytest.mark.parametrize(
    "change, labels_B, kind, at",
    [
        (lambda x_BD: x_BD, torch.zeros(32, dtype=torch.int64), "no-negative", 0),
        (lambda x_BD: x_BD, torch.arange(32), "no-positive", 0),
        (lambda x_BD: x_BD, torch.cat([torch.arange(28), torch.tensor([0, 1, 2, 3])]), "few-positives", 7),
        (twice, FOURS, "conflict", 0),
        (lambda x_BD: x_BD * 11, FOURS, "drift", 8),
        (on_one_line, FOURS, "few-directions", 7),
        (lambda x_BD: torch.ones_like(x_BD), FOURS, "collapse", 8),
        (lambda x_BD: x_BD * math.nan, FOURS, "not-finite", 0),
        (lambda x_BD: torch.eye(16)[FOURS] + 1e-3 * x_BD, FOURS, "idle", 7),
    ],
)
def test_each_finding_from_embeddings_and_labels_as_a_training_has_them(change, labels_B, kind, at):
    """The first step at which it is named: one batch is enough where a single odd one could not be the cause."""
    care, said = Care("semihard"), []
    for step in range(12):
        x_BD = sphere() if kind in ("drift", "collapse") and step == 0 else change(sphere())
        _, verdict = care.look(
            step, x_BD, labels_B, loss=x_BD.mean() * 0 + 0.2, margin=0.2, distance="squared", gradient_norm=1.0
        )
        said += verdict.remarks
    assert (kind, at) in [(remark.kind, remark.step) for remark in said]


def test_a_batch_in_order_gives_no_finding():
    care = Care("semihard")
    for step in range(12):
        vitals, verdict = care.look(
            step, sphere(), FOURS, loss=torch.tensor(0.15), margin=0.2, distance="squared", gradient_norm=1.0
        )
        assert verdict.remarks == () and verdict.alarm is None and 0 < vitals.active < 1


def test_weights_on_the_way_down_are_no_place_to_come_back_to():
    doctor = Doctor()
    looks(doctor, HEALTHY, 20)
    assert doctor.healthy
    looks(doctor, replace(HEALTHY, distance=0.4), 1)
    assert not doctor.healthy
    doctor.recovered()
    looks(doctor, replace(HEALTHY, distance=0.4), 1)
    assert doctor.healthy


def test_one_odd_batch_is_no_collapse():
    doctor = Doctor()
    looks(doctor, HEALTHY, 20)
    for step in range(100):
        sick = replace(HEALTHY, distance=0.005) if step % 8 < 7 else HEALTHY
        assert doctor.look(step, sick, gradient_norm=1.0, mean_over_margin=9.0).alarm is None


def test_shrinking_is_seen_before_it_has_collapsed():
    doctor = Doctor()
    looks(doctor, HEALTHY, 20)
    kinds, verdict = looks(doctor, replace(HEALTHY, distance=0.2, to_margin=0.3), 8)
    assert kinds == ["shrinking"] and verdict.alarm == "shrinking"
    # as small, but with a loss that falls: a small margin needs no more room
    small = Doctor()
    looks(small, HEALTHY, 20)
    kinds, verdict = looks(small, replace(HEALTHY, distance=0.2, to_margin=-0.6), 50)
    assert kinds == [] and verdict.alarm is None


def test_a_loss_at_a_margin_far_above_all_distances_is_a_collapse_whatever_the_width():
    doctor = Doctor()
    looks(doctor, HEALTHY, 1)
    kinds, _ = looks(doctor, replace(HEALTHY, distance=0.04, to_margin=0.01), mean_over_margin=0.1)
    assert "collapse" in kinds
    # a loss that passes the margin on its way down is not
    assert looks(Doctor(), replace(HEALTHY, to_margin=0.01))[0] == []


def test_embeddings_that_begin_close_together_are_given_the_time_to_leave():
    """As those of a pretrained transformer with a new head do: its warm-up is no collapse."""
    close = replace(HEALTHY, distance=0.008, to_margin=0.01)
    doctor = Doctor()
    assert looks(doctor, close, 99) == ([], Verdict((), None))
    assert looks(doctor, HEALTHY, 20)[0] == []
    assert "collapse" in looks(doctor, close, 8)[0]  # it had left: this is a collapse, and seen as soon as any
    assert looks(Doctor(), close, 100)[1].alarm == "collapse"
    doctor.recovered()  # the weights may be those that it began with
    assert looks(doctor, close, 99)[1].alarm is None


def test_one_odd_batch_is_no_departure_and_a_warm_start_tells_nothing_of_it():
    close = {"distance": 0.02, "to_margin": -0.04}
    for odd in ({"to_margin": -0.06}, {"to_margin": -0.04, "distance": 0.03}):
        doctor = Doctor()
        assert looks(doctor, replace(HEALTHY, **close), 3, mean_over_margin=0.2) == ([], Verdict((), None))
        looks(doctor, replace(HEALTHY, **close | odd), 1, mean_over_margin=0.3)
        assert looks(doctor, replace(HEALTHY, **close), 60, mean_over_margin=0.2)[1].alarm is None
    x_BD = torch.nn.functional.normalize(torch.ones(32, 16) + 0.57 * sphere(), dim=1)
    care = Care("all")
    for step in range(80):
        _, verdict = care.look(
            step,
            x_BD,
            FOURS,
            loss=torch.tensor(0.5),
            margin=0.5,
            distance="squared",
            gradient_norm=1.0,
            triplets=step >= 20,
        )
        assert verdict.alarm is None and not care.doctor.apart
    assert care.doctor.counts["collapse"] == 60  # what would be one, had they ever been apart


def test_what_has_never_been_apart_does_not_shrink():
    doctor = Doctor()
    looks(doctor, replace(HEALTHY, distance=0.03, to_margin=0.0), 4, mean_over_margin=0.3)
    kinds, verdict = looks(doctor, replace(HEALTHY, distance=0.005, to_margin=0.0), 50, mean_over_margin=0.05)
    assert kinds == [] and verdict.alarm is None


def test_a_state_from_before_it_was_known_has_been_apart_where_its_distances_have():
    for most, apart in ((0.9, True), (0.02, False)):
        old = Doctor(most_distance=most).to_json()
        del old["apart"], old["away"]
        assert Doctor.from_json(old).apart == apart


def test_a_burst_and_a_drift():
    doctor = Doctor()
    looks(doctor, HEALTHY, 30)
    verdict = doctor.look(31, HEALTHY, gradient_norm=1000.0, mean_over_margin=9.0)
    assert [remark.kind for remark in verdict.remarks] == ["burst"] and not doctor.healthy
    drifting = Doctor()
    looks(drifting, HEALTHY, 1)
    assert looks(drifting, replace(HEALTHY, norm=11.0))[0] == ["drift"]


def test_the_state_survives_json():
    doctor = Doctor()
    looks(doctor, HEALTHY, 5)
    looks(doctor, replace(HEALTHY, rank=1.0), 9)
    assert Doctor.from_json(json.loads(json.dumps(doctor.to_json()))) == doctor
    care = Care(stage=1, alarms=2, rate=0.09, doctor=doctor)
    assert Care.from_json(json.loads(json.dumps(care.to_json()))) == care


def test_an_alarm_goes_one_stage_back_slows_down_and_is_given_up_after_the_third():
    care = Care(stage=2)
    assert care.mining_now == "hard"
    first = care.alarm(100, "collapse", learning_rate=1e-3)
    assert care.mining_now == "semihard" and care.rate == pytest.approx(0.5) and "'semihard'" in first.text
    care.alarm(200, "collapse", learning_rate=1e-3)
    care.alarm(300, "shrinking", learning_rate=1e-3)
    # semi-hard to all; and from all triplets, which do not leave a point, back to the semi-hard
    assert care.mining_now == "semihard" and care.highest == 1 and care.rate == pytest.approx(0.125)
    with pytest.raises(RunError, match="given up at step 400 after 3 fresh starts"):
        care.alarm(400, "collapse", learning_rate=1e-3)


def test_of_a_wild_learning_rate_the_usual_one_is_left_and_then_halves_of_it():
    care, rates = Care(), []
    for step in range(3):
        care.alarm(step, "collapse", learning_rate=1e-2)
        rates.append(1e-2 * care.rate)
    assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4])
    care.alarms = 0
    care.alarm(9, "collapse", learning_rate=1e30)
    assert 0 < 1e30 * care.rate <= 1e-3


@pytest.mark.parametrize("mining", MINING)
def test_mining_that_the_user_named_stays_until_an_alarm_makes_it_easier(mining):
    care = Care(mining)
    for _ in range(200):
        care._advance(replace(HEALTHY, active=0.0001))
    assert care.mining_now == mining
    before = care.stage
    care.doctor.apart = True
    care.alarm(1, "collapse", learning_rate=1e-3)
    assert care.mining_now == ("semihard", "all", "semihard")[before]
    assert f"{care.mining_now!r}" in care.doctor.remarks[-1].text


def test_mining_after_an_alarm_goes_by_what_was_wrong():
    never_apart = Care(stage=1)
    never_apart.alarm(1, "collapse", learning_rate=1e-3)
    assert never_apart.mining_now == "semihard"  # all triplets do not take apart what has never been
    wild = Care()
    wild.alarm(1, "not-finite", learning_rate=1e-3)
    assert wild.mining_now == "all"  # harder mining is no remedy for a wild rate
    stuck = Care()
    stuck.alarm(1, "shrinking", learning_rate=1e-3)
    assert stuck.mining_now == "semihard"


def test_auto_mining_hardens_as_fewer_are_active_but_not_beyond_where_it_failed():
    care = Care()
    modes = []
    for _ in range(400):
        care._advance(replace(HEALTHY, active=0.01))
        modes.append(care.mining_now)
    assert modes[0] == "all" and modes[-1] == "hard" and "semihard" in modes
    care.alarm(400, "shrinking", learning_rate=1e-3)
    for _ in range(400):
        care._advance(replace(HEALTHY, active=0.01))
    assert care.mining_now == "semihard"


def test_auto_mining_leaves_all_triplets_where_they_do_not_take_the_embeddings_apart():
    close = replace(HEALTHY, distance=0.02, active=1.0)
    care = Care()
    for _ in range(24):
        care._advance(close)
    assert care.mining_now == "all"
    care._advance(close)
    assert care.mining_now == "semihard"
    for _ in range(200):
        care._advance(close)
    assert care.mining_now == "semihard"
    leaving = Care()
    for step in range(200):
        leaving._advance(close if step % 25 < 24 else replace(close, distance=0.2))
    assert leaving.mining_now == "all"
