from __future__ import annotations

import pytest

from synthetic import read_people, write_people
from tercet.data import split_identities
from tercet.data.held_out import hold_out
from tercet.data.trials import read_trials
from tercet.errors import DataError, InvalidOption


@pytest.fixture
def people(tmp_path):
    return write_people(tmp_path / "people", people=12, pictures=3)


def listed(people, lines):
    path = people.parent / "pairs.txt"
    path.write_text("\n".join(lines) + "\n")
    return read_trials(path, people)


FOLDS = (
    "p00/0.png p00/1.png 1 1",
    "p00/0.png p01/1.png 0 1",
    "p02/0.png p02/1.png 1 2",
    "p02/0.png p03/1.png 0 2",
    "p03/0.png p03/2.png 1 2",
)


def test_the_identities_of_the_fold_are_the_test_and_its_pairs_are_scored(people):
    manifest = read_people(people)
    for fold, identities, pairs in ((None, {"p02", "p03"}, 3), (2, {"p02", "p03"}, 3), (1, {"p00", "p01"}, 2)):
        marked, trials = hold_out(manifest, listed(people, FOLDS), fold)
        assert len(trials) == pairs and set(trials.fold.tolist()) == {fold or 2}
        assert [row.path for row in marked.rows] == [row.path for row in manifest.rows]
        split = split_identities(marked, seed=0)
        assert set(split.test) == identities and not identities & {*split.train, *split.validation}
        assert len(split.train) + len(split.validation) == 10


def test_a_list_without_folds_is_held_out_as_a_whole(people):
    marked, trials = hold_out(read_people(people), listed(people, [line[:-2] for line in FOLDS]))
    assert len(trials) == 5 and trials.fold is None
    assert set(split_identities(marked, seed=0).test) == {"p00", "p01", "p02", "p03"}


def test_what_cannot_be_held_out(people):
    manifest, trials = read_people(people), listed(people, FOLDS)
    with pytest.raises(InvalidOption, match=r"fold=3 is not known; allowed: 1, 2"):
        hold_out(manifest, trials, 3)
    with pytest.raises(InvalidOption, match=r"--fold 1: .*pairs\.txt has no folds"):
        hold_out(manifest, listed(people, [line[:-2] for line in FOLDS]), 1)
    marked, _ = hold_out(manifest, trials)
    with pytest.raises(InvalidOption, match="who is kept for the test"):
        hold_out(marked, trials)
    (people / "p02" / "elsewhere.png").write_bytes((people / "p02" / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"pairs\.txt: line 1: elsewhere\.png is not among the data"):
        hold_out(manifest, listed(people, ["p02/elsewhere.png p02/0.png 1 1", *FOLDS[:2]]), 1)
