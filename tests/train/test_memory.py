"""The memory bank: what is in it, whom it is compared with, and that nobody is his own positive."""

from __future__ import annotations

import pytest
import torch

import tercet.functional as TF
from tercet.losses import TripletLoss
from tercet.train.memory import MemoryBank

LOSS = TripletLoss(0.5, mining="all")


def unit(rows: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 4, generator=random, dtype=torch.float64), dim=1)


def numbers(*values: int) -> torch.Tensor:
    return torch.tensor(values)


@pytest.fixture
def encoder() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 4).double()


def test_positives_and_negatives_come_from_the_batch_and_from_the_bank(encoder):
    bank = MemoryBank(encoder, rows=9)
    old, now = unit(4, 1), unit(3, 2).requires_grad_()
    labels = numbers(0, 0, 1)
    bank.add(old, numbers(0, 1, 2, -1), numbers(10, 11, 12, 13), step=0)
    value = bank.loss(LOSS, now, labels, numbers(1, 2, 3), step=1)
    expected = TF.batch_triplet_loss(
        now, labels, margin=0.5, mining="all",
        reference=torch.cat([now, old]), reference_labels=numbers(0, 0, 1, 0, 1, 2, -1), anchor_rows=numbers(0, 1, 2),
    )  # fmt: skip
    assert value.item() == expected.item() != LOSS(now, labels).item()
    (gradient,) = torch.autograd.grad(value, now)
    copies = now.detach().requires_grad_()
    plain = triplets_by_hand(copies, labels, old, numbers(0, 1, 2, -1))
    (expected_gradient,) = torch.autograd.grad(plain, copies)
    assert plain.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


def triplets_by_hand(now, labels, old, old_labels):
    others, theirs = torch.cat([now, old]), torch.cat([labels, old_labels])
    lost = []
    for a in range(len(now)):
        for p in range(len(others)):
            for n in range(len(others)):
                if p != a and theirs[p] == labels[a] and theirs[n] != labels[a]:
                    gap = (now[a] - others[p]).square().sum() - (now[a] - others[n]).square().sum()
                    lost.append(torch.relu(gap + 0.5))
    return torch.stack(lost).mean()


def test_a_sample_stands_in_the_reference_once_and_newest(encoder):
    bank = MemoryBank(encoder, rows=9)
    first, second = unit(3, 1), unit(3, 2)
    bank.add(first, numbers(0, 0, 1), numbers(5, 6, 7), step=0)
    bank.add(second, numbers(0, 1, 1), numbers(6, 7, 8), step=1)
    state = bank.tensors()
    assert state["samples"].tolist() == [5, 6, 7, 8] and state["steps"].tolist() == [0, 1, 1, 1]
    assert torch.equal(state["rows"], torch.cat([first[:1], second]))
    now = unit(4, 3)
    # All of the bank's samples but one are in the batch themselves.
    value = bank.loss(LOSS, now, numbers(0, 1, 1, 0), numbers(6, 7, 8, 9), step=2)
    one = TF.batch_triplet_loss(
        now, numbers(0, 1, 1, 0), margin=0.5, reference=torch.cat([now, first[:1]]),
        reference_labels=numbers(0, 1, 1, 0, 0), anchor_rows=torch.arange(4),
    )  # fmt: skip
    assert float(value) == float(one)
    same = bank.loss(LOSS, now, numbers(0, 0, 1, 1), numbers(5, 6, 7, 8), step=2)
    assert float(same) == float(LOSS(now, numbers(0, 0, 1, 1)))


def test_the_oldest_leave_first_and_the_too_old_do_not_count(encoder):
    bank = MemoryBank(encoder, rows=5, age=2)
    for step in range(3):
        bank.add(unit(2, step), numbers(0, 1), numbers(2 * step, 2 * step + 1), step=step)
    assert len(bank) == 5 and bank.tensors()["samples"].tolist() == [1, 2, 3, 4, 5]
    now, labels, samples = unit(4, 9), numbers(0, 0, 1, 1), numbers(90, 91, 92, 93)
    values = [float(bank.loss(LOSS, now, labels, samples, step)) for step in (2, 3, 4, 5)]
    assert len(set(values)) == 4 and values[3] == float(LOSS(now, labels)), "one step's rows fewer each time"


def test_before_the_warm_up_is_over_the_bank_fills_and_is_not_used(encoder):
    bank = MemoryBank(encoder, rows=5, warmup=3)
    bank.add(unit(4, 1), numbers(0, 1, 0, 1), numbers(0, 1, 2, 3), step=0)
    now, labels, samples = unit(4, 9), numbers(0, 0, 1, 1), numbers(90, 91, 92, 93)
    alone = float(LOSS(now, labels))
    assert float(bank.loss(LOSS, now, labels, samples, step=2)) == alone
    assert float(bank.loss(LOSS, now, labels, samples, step=3)) != alone


def test_the_momentum_encoder_follows_slowly_and_is_as_in_use(encoder):
    model = torch.nn.Sequential(encoder, torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4).double())
    bank = MemoryBank(model, rows=5, momentum=0.75)
    before = encoder.weight.detach().clone()
    with torch.no_grad():
        encoder.weight += 1
    model(torch.randn(8, 3).double())
    bank.follow(model)
    slow = bank.follower
    torch.testing.assert_close(slow[0].weight, before + 0.25)
    assert torch.equal(slow[2].running_mean, model[2].running_mean) and not slow.training
    assert not any(parameter.requires_grad for parameter in slow.parameters())
    bank.clear(model)
    assert torch.equal(slow[0].weight, encoder.weight) and len(bank) == 0


def test_the_state_is_all_of_it(encoder):
    def made() -> MemoryBank:
        return MemoryBank(encoder, rows=5, age=3, momentum=0.5)

    bank, other = made(), made()
    bank.add(unit(4, 1), numbers(0, 1, 0, 1), numbers(0, 1, 2, 3), step=4)
    with torch.no_grad():
        bank.follower.weight += 1
    other.set_tensors(bank.tensors())
    assert torch.equal(other.follower.weight, bank.follower.weight)
    for each in (bank, other):
        each.add(unit(3, 2), numbers(0, 1, 2), numbers(3, 4, 5), step=6)
    now, labels, samples = unit(4, 9), numbers(0, 0, 1, 1), numbers(90, 91, 92, 93)
    values = [float(each.loss(LOSS, now, labels, samples, step=7)) for each in (bank, other)]
    assert values[0] == values[1] != float(LOSS(now, labels))
    empty = made()
    empty.set_tensors(made().tensors())
    assert len(empty) == 0
