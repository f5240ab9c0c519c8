"""The check that users run on their own encoder and loss finds what it is for, and passes what is right."""

from __future__ import annotations

import pytest
import torch

import tercet
from tercet.errors import InvalidInput, RunError
from tercet.testing import assert_equivalent

LOSS = tercet.TripletLoss(0.5, mining="semihard")


def made(middle: torch.nn.Module) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), middle, torch.nn.Linear(16, 4))


class WithCentres(torch.nn.Module):
    """A loss with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = torch.nn.Parameter(torch.linspace(-1, 1, 20).view(5, 4).double())

    def forward(self, x, labels):
        return (x - self.centres[labels]).square().mean() + LOSS(x, labels)


class Refuses(torch.nn.Module):
    def forward(self, x, labels):
        if torch.distributed.is_initialized():
            raise ValueError("not here")
        return x.sum()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(14, 6, generator=random), torch.arange(14) // 3


def test_real_processes_with_chunks_pass_and_the_parameters_of_a_loss_are_compared_too():
    found = assert_equivalent(made(torch.nn.ReLU()), WithCentres(), *batch(), processes=2, chunk=3)
    assert found.gradient_error < 1e-13 and found.loss_error < 1e-13 and found.tolerance == 1e-12
    assert found.worst.startswith(("encoder.", "loss.centres"))


def test_an_encoder_whose_rows_see_each_other_is_found_and_named():
    with pytest.raises(AssertionError, match=r"1 processes with chunk 5 do not give .*; in training mode are 1, which"):
        assert_equivalent(made(torch.nn.BatchNorm1d(16)), LOSS, *batch(), processes=1, chunk=5)
    with pytest.raises(AssertionError, match="in training mode are 1"):
        assert_equivalent(made(torch.nn.Dropout(0.3)), LOSS, *batch(), processes=1, chunk=5)
    assert assert_equivalent(made(torch.nn.BatchNorm1d(16)).eval(), LOSS, *batch(), processes=1, chunk=5)


def test_the_user_s_modules_are_left_as_they_were():
    encoder, loss = made(torch.nn.ReLU()), tercet.TripletLoss(tercet.AutoMargin())
    before = encoder[0].weight.clone()
    assert_equivalent(encoder, loss, *batch(), processes=1, chunk=4)
    assert torch.equal(encoder[0].weight, before) and encoder[0].weight.grad is None
    assert encoder[0].weight.dtype == torch.float32 and loss.margin.value == 0


def test_float32_is_compared_with_a_tolerance_of_its_own():
    found = assert_equivalent(made(torch.nn.ReLU()), LOSS, *batch(), processes=1, chunk=4, dtype=torch.float32)
    assert found.tolerance == 1e-5
    with pytest.raises(AssertionError, match="allowed 1e-12"):
        assert_equivalent(
            made(torch.nn.ReLU()), LOSS, *batch(), processes=1, chunk=4, dtype=torch.float32, tolerance=1e-12
        )


def test_bad_arguments_and_what_cannot_be_sent_are_named():
    inputs, labels = batch()
    with pytest.raises(InvalidInput, match="processes, chunk"):
        assert_equivalent(made(torch.nn.ReLU()), LOSS, inputs, labels, processes=0)
    with pytest.raises(InvalidInput, match="labels: 3 of them for 14 inputs"):
        assert_equivalent(made(torch.nn.ReLU()), LOSS, inputs, labels[:3])
    with pytest.raises(InvalidInput, match="cannot be sent"):
        assert_equivalent(made(torch.nn.ReLU()), lambda x, y: LOSS(x, y), inputs, labels)


@pytest.mark.long
def test_a_process_that_fails_or_takes_too_long_is_told():
    with pytest.raises(RunError, match=r"processes: .*not here"):
        assert_equivalent(made(torch.nn.ReLU()), Refuses(), *batch(), processes=2)
    with pytest.raises(RunError, match=r"not done within 0.1 s"):
        assert_equivalent(made(torch.nn.ReLU()), LOSS, *batch(), processes=2, timeout_s=0.1)
