import pytest

from tercet.train import Settings
from tercet.train.schedule import Budget, learning_rate


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine():
    settings = Settings(epochs=1, learning_rate=2.0, warmup=0.1)
    assert learning_rate(settings, 0.05) == pytest.approx(1.0)
    assert learning_rate(settings, 0.1) == pytest.approx(2.0)
    assert learning_rate(settings, 0.55) == pytest.approx(1.0)
    assert learning_rate(settings, 1.0) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(settings, 1.3) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(settings, 0.0) > 0, "the first step moves the weights"
    assert learning_rate(Settings(epochs=1, learning_rate=2.0, warmup=0), 0.0) == 2.0


def test_a_budget_in_epochs_depends_on_the_step_alone():
    budget = Budget.of(Settings(epochs=2.5), batches_per_epoch=4)
    assert budget.steps == 10
    assert budget.spent(5, 1.0) == budget.spent(5, 1e6) == 0.5
    assert budget.remaining_s(0, 0.0) is None
    assert budget.remaining_s(5, 20.0) == 20.0
    assert Budget.of(Settings(epochs=0.01), batches_per_epoch=4).steps == 1


def test_a_budget_in_minutes_depends_on_the_time_alone():
    budget = Budget.of(Settings(minutes=2), batches_per_epoch=4)
    assert budget.spent(1, 30.0) == budget.spent(10**6, 30.0) == 0.25
    assert budget.remaining_s(3, 30.0) == 90.0
    assert budget.remaining_s(3, 130.0) == 0.0
