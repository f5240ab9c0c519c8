from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.errors import DataError, InvalidOption
from tercet.service.limits import Admission, Rate
from tercet.service.refusal import Refusal
from tercet.service.settings import Settings, is_loopback, read_keys


def test_so_many_at_a_time_and_no_more() -> None:
    admission = Admission(at_once=2, bytes_at_once=10)
    with admission.work(), admission.work():
        with pytest.raises(Refusal) as refused:
            admission.check()
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "1")
        with pytest.raises(Refusal), admission.work():
            raise AssertionError
        assert admission.working == 2
    with pytest.raises(ZeroDivisionError), admission.work():
        1 / 0  # noqa: B018
    assert admission.working == 0
    with admission.memory(6), pytest.raises(Refusal), admission.memory(5):
        raise AssertionError
    with admission.memory(10):
        pass


def test_a_rate_is_kept_for_each_caller() -> None:
    rate = Rate(per_minute=60)
    for _ in range(10):
        rate.take("a", now=0.0)
    with pytest.raises(Refusal) as refused:
        rate.take("a", now=0.0)
    assert refused.value.status == 429
    assert refused.value.retry_s == 2
    rate.take("b", now=0.0)
    rate.take("a", now=2.0)
    rate.take("a", now=2.0)
    with pytest.raises(Refusal):
        rate.take("a", now=2.0)


@given(st.floats(0.5, 1000), st.lists(st.floats(0, 30), min_size=1, max_size=100))
def test_no_minute_sees_more_than_its_rate_and_one_burst(per_minute: float, waits: list[float]) -> None:
    rate, now, passed = Rate(per_minute), 0.0, []
    for wait in waits:
        now += wait
        try:
            rate.take("x", now=now)
            passed.append(now)
        except Refusal as refusal:
            assert refusal.retry_s is not None
            assert refusal.retry_s >= 1
    for at in passed:
        assert sum(at <= other <= at + 60 for other in passed) <= per_minute + max(1, per_minute / 6) + 1e-6


def test_callers_are_forgotten_oldest_first() -> None:
    rate = Rate(per_minute=6)
    rate.take("first", now=0.0)
    for number in range(10_000):
        rate.take(str(number), now=0.0)
    rate.take("first", now=0.0)
    with pytest.raises(Refusal):
        rate.take("9999", now=0.0)


@pytest.mark.parametrize("wrong", [{"at_once": 0}, {"max_seconds": -1.0}, {"per_minute": float("nan")}])
def test_settings_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(InvalidOption, match=next(iter(wrong))):
        Settings(**wrong)


def test_keys_are_read_from_a_private_file(tmp_path) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the till\n0123456789abcdef\n\n  fedcba9876543210\n")
    file.chmod(0o600)
    assert read_keys(file) == ("0123456789abcdef", "fedcba9876543210")
    file.chmod(0o640)
    with pytest.raises(DataError, match="chmod 600"):
        read_keys(file)
    file.chmod(0o600)
    for text, said in (("short\n", "16 at least"), ("", "no key"), ("with blanks in between\n", "no blanks")):
        file.write_text(text)
        with pytest.raises(DataError, match=said) as error:
            read_keys(file)
        assert not text.strip() or text.strip() not in str(error.value)
    file.write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(DataError, match="not text"):
        read_keys(file)
    with pytest.raises(DataError, match="No such file"):
        read_keys(tmp_path / "none")


def test_which_addresses_are_of_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.5.5.5", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "example.org", "")))
