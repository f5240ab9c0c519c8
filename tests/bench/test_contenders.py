"""Everyone who takes part computes what the definition says; who does not is found out."""

from __future__ import annotations

import pytest
import torch

from tercet.bench import contenders as field
from tercet.bench.contenders import CASES, LEFT_OUT, PEERS, installed, names
from tercet.bench.measure import Setting, check_values

SETTING = Setting(width=8, samples_per_class=4, threads=1, device="cpu")


@pytest.mark.parametrize("case", CASES)
def test_ours_and_plain_torch_compute_what_the_definition_says(case: str) -> None:
    said = check_values(case, SETTING, peers=())
    assert said.get("tercet (tiles)", said.get("tercet")) == ""
    assert said.get("torch, broadcast", "") == ""
    assert said.get("torch.nn, index triplets", "") == ""
    assert set(said.values()) <= {"", "this engine does not do it here"}
    assert case in ("distance_weighted", "random") or "torch, broadcast" in said


@pytest.mark.filterwarnings("ignore")  # the peers' own
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_computes_what_the_definition_says(peer: str) -> None:
    pytest.importorskip(PEERS[peer], reason=f"{peer} is not installed")
    taken = [case for case in CASES if peer in names(case, peers=[peer])]
    assert len(taken) == {"pytorch-metric-learning": 5, "sentence-transformers": 2}[peer]
    for case in taken:
        assert check_values(case, SETTING, peers=[peer])[peer] == "", case


def test_every_peer_takes_part_in_a_case_or_is_left_out_with_a_reason() -> None:
    for case in CASES:
        for peer in PEERS:
            reasons = [reason for at, who, reason in LEFT_OUT if (at, who) == (case, peer)]
            assert (case in field._PEER_LOSSES[peer]) == (not reasons), (case, peer)
            assert len(reasons) <= 1


def test_another_value_or_another_gradient_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        lambda x, labels: field._broadcast_hard(x, labels) * 1.001,
        lambda x, labels: field._broadcast_hard(x, labels) + (x - x.detach()).sum() * 1e-3,
    ):
        monkeypatch.setitem(field._TORCH, "hard", wrong)
        assert "does not compute the same" in check_values("hard", SETTING, peers=())["torch, broadcast"]


def test_a_peer_that_cannot_be_used_is_left_out_and_an_error_of_ours_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken():
        raise AttributeError("moved in version 99")

    monkeypatch.setattr(field, "_PEER_LOSSES", {"pytorch-metric-learning": {"hard": broken}})
    said = check_values("hard", SETTING, peers=list(PEERS))
    assert said["pytorch-metric-learning"] == "cannot be used here (AttributeError: moved in version 99)"
    monkeypatch.setitem(field._TORCH, "hard", lambda x, labels: broken())
    with pytest.raises(AttributeError, match="version 99"):
        check_values("hard", SETTING, peers=())


def test_without_peers_none_is_imported_or_named() -> None:
    for case in CASES:
        assert not set(names(case, peers=())) & set(PEERS)
    assert set(installed()) == set(PEERS)


def test_the_batch_is_one_of_unit_rows_in_whole_classes() -> None:
    x, labels = SETTING.batch(12)
    assert x.requires_grad
    torch.testing.assert_close(x.detach().norm(dim=1), torch.ones(12))
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
