"""A divided batch has the gradient of the whole one: in 1, 2 and 4 real processes, for every mining mode."""

from __future__ import annotations

import pytest
import torch

import several
from tercet.errors import InvalidInput
from tercet.losses import TripletLoss
from tercet.train.ranks import Ranks, share
from tercet.train.step import DividedStep, hold_batch_norm


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for case in several.cases():
        found |= several.undivided(*case)
    return found


def compare(part: dict[str, torch.Tensor], whole: dict[str, torch.Tensor]) -> None:
    """Relative errors: in float64 1e-12 of each parameter's gradient, in float32 1e-6 of the gradient as one vector."""
    assert {name for name in part if "|" in name} == whole.keys()
    size: dict[str, float] = {}
    for name, expected in whole.items():
        case, of = name.split("|")
        if of != "loss":
            size[case] = (size.get(case, 0.0) ** 2 + float(expected.norm()) ** 2) ** 0.5
    for name, expected in whole.items():
        case, of = name.split("|")
        exact = "float64" in name
        # A loss is a difference of distances, so a small one is measured against the margin.
        reference = max(float(expected), 0.3 * (not exact)) if of == "loss" else size[case]
        reference = float(expected.norm()) if exact else reference
        error = float((part[name] - expected).norm()) / max(reference, 1e-30)
        assert error <= (1e-12 if exact else 1e-6), f"{name}: {error:.2g}"


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.long), 4])
def test_every_process_finds_the_loss_and_the_gradients_of_the_whole_batch(processes, whole, tmp_path):
    found = several.run(processes, tmp_path)
    for part in found:
        compare(part, whole)
    assert all(torch.equal(part["fifty"], found[0]["fifty"]) for part in found), "weights and bank differ in some bit"
    surveys = [{name: tensor for name, tensor in part.items() if name.startswith("survey.")} for part in found]
    alone = several.surveyed(str(tmp_path))
    for name, tensor in alone.items():
        torch.testing.assert_close(surveys[0][name], tensor, rtol=0, atol=1e-5)
        assert all(torch.equal(survey[name], surveys[0][name]) for survey in surveys), "not the same batches everywhere"
    alone = several.fifty_steps()
    torch.testing.assert_close(found[0]["embed"], alone["embed"], rtol=1e-3, atol=1e-4)


def test_one_process_in_chunks_finds_them_too(whole):
    found: dict[str, torch.Tensor] = {}
    for case in several.cases():
        found |= several.divided(*case)
    compare(found, whole)


def test_cases_are_such_that_they_can_fail(whole):
    """Every case that should has triplets, and no two ways of mining agree."""
    losses = {name: float(value) for name, value in whole.items() if name.endswith("float64|loss")}
    assert all((value > 0) == ("nothing" not in name) for name, value in losses.items())
    by_loss = [value for name, value in losses.items() if name.startswith("mining")]
    assert len(set(by_loss)) == len(by_loss)


def test_shares_are_all_rows_once_in_order_and_differ_by_one_at_most():
    for rows in range(20):
        for size in (1, 2, 3, 7):
            shares = [share(rows, rank, size) for rank in range(size)]
            assert [row for own in shares for row in range(own.start, own.stop)] == list(range(rows))
            lengths = [own.stop - own.start for own in shares]
            assert max(lengths) - min(lengths) <= 1 and lengths == sorted(lengths, reverse=True)


def test_chunks_hold_the_activations_of_one_chunk_and_repeat_its_draws():
    """The encoder sees chunks only, each twice, and its dropout is the same both times."""
    torch.manual_seed(0)
    seen = []
    drawn = torch.nn.Sequential(torch.nn.Linear(5, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 3))

    def forward(x):
        made = drawn(x)
        seen.append((len(x), torch.is_grad_enabled(), made.detach()))
        return made

    x, labels = torch.randn(11, 5), torch.arange(11) // 2
    step = DividedStep(forward, drawn, Ranks(), chunk=4)
    embeddings, _ = step.backward(lambda part: x[part], 11, lambda e: TripletLoss()(e, labels), seed=lambda row: row)
    passes = [(4, False), (4, False), (3, False), (4, True), (4, True), (3, True)]
    assert [(rows, graph) for rows, graph, _ in seen] == passes
    assert torch.equal(torch.cat([made for _, graph, made in seen if graph]), embeddings)


def test_one_chunk_costs_no_second_pass():
    calls = []
    model = torch.nn.Linear(5, 3)

    def forward(x):
        calls.append(len(x))
        return model(x)

    step = DividedStep(forward, model, Ranks(), chunk=11)
    step.backward(lambda part: torch.ones(11, 5)[part], 11, lambda e: e.square().sum(), seed=lambda row: row)
    assert calls == [11]
    assert not step.is_divided(11) and step.is_divided(12)


def test_batch_norm_is_held_and_then_a_divided_batch_is_exact():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)).double()
    x, labels = torch.randn(12, 5).double(), torch.arange(12) // 3
    model(x)  # so that the statistics are something
    assert hold_batch_norm(model) == ("1",) and hold_batch_norm(model) == ()
    TripletLoss()(model(x), labels).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.zero_grad()
    step = DividedStep(model, model, Ranks(), chunk=5)
    step.backward(lambda part: x[part], 12, lambda e: TripletLoss()(e, labels), seed=lambda row: row)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-14)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    with pytest.raises(InvalidInput, match="layer 0 normalises by the batch alone"):
        hold_batch_norm(torch.nn.Sequential(torch.nn.BatchNorm1d(8, track_running_stats=False)))


def test_reduced_precision_is_gathered_and_lost_in_float32():
    model = torch.nn.Linear(5, 3)
    x, labels = torch.randn(12, 5), torch.arange(12) // 3
    kinds = []

    def objective(e):
        kinds.append(e.dtype)
        return TripletLoss()(e, labels)

    step = DividedStep(model, model, Ranks(), chunk=5, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    _, loss = step.backward(lambda part: x[part], 12, objective, seed=lambda row: row)
    assert kinds == [torch.float32] and loss.dtype == torch.float32 and model.weight.grad.dtype == torch.float32
