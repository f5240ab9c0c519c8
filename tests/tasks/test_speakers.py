"""The whole way with speech, through the commands alone."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from tercet.cli.main import main
from voices import RATE, voice, write, write_speakers


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with speakers/ and a run trained on them for a few steps. Not to be changed."""
    folder = tmp_path_factory.mktemp("speech")
    write_speakers(folder / "speakers", speakers=10, utterances=4)
    write(folder / "speakers" / "s09" / "silence.wav", np.zeros(RATE, np.float32))
    command = ["train", folder / "speakers", "--task", "speakers", "--out", folder / "run", "--epochs", "5"]
    assert main([*map(str, command), "--seed", "1"]) == 0
    return folder


@pytest.fixture
def tercet(capsys):
    """Runs one command line with --json: (exit code, the object on stdout or None, stderr)."""

    def run(*args):
        capsys.readouterr()
        code = main([*map(str, args), "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else None, said.err

    return run


def test_a_run_on_speech_is_evaluated_beside_cepstral_statistics(place, tercet):
    code, found, _ = tercet("evaluate", place / "run", place / "speakers")
    assert code == 0 and set(found["baselines"]) >= {"mfcc_statistics", "untrained"}
    assert found["eer"] < 0.5 and found["recall"]["1"] > 0.5
    config = json.loads((place / "run" / "run.json").read_text())
    assert (config["front_end"]["kind"], config["encoder"]["kind"]) == ("audio", "described")
    assert config["encoder"]["network"]["kind"] == "speech"
    assert config["packages"]["soundfile"]


def test_speakers_are_verified_by_cosine_and_with_as_norm_where_the_training_speakers_are_there(place, tercet):
    _, found, said = tercet("evaluate", place / "run", place / "speakers", "--protocol", "verification")
    normed, trained = (
        found["as_norm"],
        json.loads((place / "run" / "run.json").read_text())["data"]["identities"]["train"],
    )
    assert normed["cohort"] == trained and 0 <= normed["eer"] <= 0.5
    assert normed["min_dcf"].keys() == found["min_dcf"].keys() == {"0.01", "0.05"}
    assert normed["min_cllr"] != found["min_cllr"]
    assert f"with AS-norm, by {trained} training identities: EER" in said
    _, without, said = tercet(
        "evaluate", place / "run", place / "speakers", "--protocol", "verification", "--cohort", 0
    )
    assert "as_norm" not in without and "AS-norm" not in said
    assert without["eer"] == found["eer"]


def test_a_cohort_that_there_is_no_use_for_or_nobody_to_make_of_is_said(place, tercet, tmp_path):
    asked = ("evaluate", place / "run", place / "speakers", "--cohort")
    code, _, err = tercet(*asked, 1)
    assert code == 2 and "--cohort 1: must be two training identities at least" in err
    code, _, err = tercet(*asked, 5, "--protocol", "retrieval")
    assert code == 2 and "--cohort has no part in --protocol retrieval" in err
    others = write_speakers(tmp_path / "others", speakers=4, utterances=3, first=40)
    code, found, err = tercet("evaluate", place / "run", others, "--cohort", 5)
    assert code == 0 and "as_norm" not in found
    assert "--cohort 5: DATA hold fewer than two training identities" in err
    assert any("--cohort 5" in warning for warning in found["warnings"])


def test_with_pairs_of_known_speakers_or_scores_that_are_normalised_already_there_is_no_as_norm_beside(
    place, tercet, tmp_path
):
    data = place / "speakers"
    speakers = json.loads((place / "run" / "split.json").read_text())["train"][:2]
    first, second = (sorted(path.relative_to(data) for path in (data / name).iterdir())[:2] for name in speakers)
    (tmp_path / "pairs.txt").write_text(f"1 {first[0]} {first[1]}\n0 {first[0]} {second[0]}\n")
    asked = ("evaluate", place / "run", data, "--protocol", "verification")
    code, found, _ = tercet(*asked, "--pairs", tmp_path / "pairs.txt", "--keep-seen")
    assert code == 0 and "as_norm" not in found
    copy = shutil.copytree(place / "run", tmp_path / "run")
    code, _, err = tercet("calibrate", copy, data, "--fmr", "0.7", "--norm", "as-norm", "--cohort", 3)
    assert code == 0, err
    code, found, _ = tercet("evaluate", copy, data, "--protocol", "verification")
    assert code == 0 and "as_norm" not in found
    code, _, err = tercet("evaluate", copy, data, "--protocol", "verification", "--cohort", 4)
    assert code == 2 and "the model is calibrated for scores with AS-norm, by 3 of its own cohort" in err


def test_silence_is_undecided_and_damage_is_an_error(place, tercet, tmp_path):
    silence = write(tmp_path / "silence.wav", np.zeros(RATE, np.float32))
    spoken = place / "speakers" / "s00" / "0.flac"
    code, found, err = tercet("verify", place / "run", spoken, silence)
    assert (code, found["decision"], found["score"]) == (3, "undecided", None)
    assert found["reason"] == f"{silence}: too little speech: 0.0 s found in 1.0 s, 0.2 s are needed"
    assert "undecided" in err
    cut = tmp_path / "cut.wav"
    cut.write_bytes(write(tmp_path / "whole.wav", voice(0, 0)).read_bytes()[:9000])
    code, found, err = tercet("verify", place / "run", spoken, cut)
    assert (code, found) == (2, None) and f"{cut}: the recording is cut off" in err


def test_a_threshold_decides_and_other_rates_are_understood(place, tercet, tmp_path):
    code, found, _ = tercet("verify", place / "run", *(place / "speakers" / "s00" / f"{n}.flac" for n in (0, 1)))
    assert (code, found["decision"]) == (3, "undecided") and "no calibrated threshold" in found["reason"]
    others = write_speakers(tmp_path / "others", speakers=8, utterances=3, first=20)
    calibrated = shutil.copytree(place / "run", tmp_path / "run")
    assert tercet("calibrate", calibrated, others, "--fmr", "0.3")[0] == 0
    at_48 = write(tmp_path / "a.wav", voice(0, 9, rate=48_000), rate=48_000)
    at_16 = write(tmp_path / "b.ogg", voice(0, 9))
    code, found, _ = tercet("verify", calibrated, at_48, at_16)
    assert (code, found["decision"]) == (0, "match") and found["score"] > 0.9 and found["reason"] is None


def test_recordings_are_embedded_and_searched(place, tercet, tmp_path):
    code, found, _ = tercet("embed", place / "run", place / "speakers", "--out", tmp_path / "v.npz")
    assert code == 0 and found["vectors"] == 40
    assert [entry["path"] for entry in found["skipped"]] == ["s09/silence.wav"]
    probe = place / "speakers" / "s03" / "0.flac"
    code, found, _ = tercet("search", place / "run", probe, "--gallery", tmp_path / "v.npz", "-k", 3)
    assert code == 0 and found["results"][0]["path"] == str(probe)


def test_the_report_shows_spectrograms_and_plays_them(place, tercet, tmp_path):
    code, _, _ = tercet("report", place / "run", "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert code == 0
    assert len(re.findall(r'<audio controls preload="none" src="data:audio/mpeg;base64,', page)) > 10
    assert "media-src data:" in page and "mfcc statistics" in page
    assert 'alt="query, identity s' in page


def test_pictures_of_sound_are_not_kept_in_a_gallery(place, tercet, tmp_path):
    code, found, err = tercet(
        "enroll", place / "run", place / "speakers", "--gallery", tmp_path / "g.db", "--store-pictures"
    )
    assert (code, found) == (2, None) and "--store-pictures: " in err and "not pictures" in err
    assert not (tmp_path / "g.db").exists()
