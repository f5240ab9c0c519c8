from __future__ import annotations

import numpy as np
import pytest

from tercet.data import AudioFrontEnd
from tercet.data import speech_layouts as layouts
from tercet.errors import DataError
from tercet.tasks import load_task
from voices import write

SILENT = np.zeros(160, np.float32)
SUFFIXES = AudioFrontEnd.SUFFIXES
TASK = load_task("speakers")


def make(root, *names):
    """Files of no content, since no layout opens them."""
    for name in names:
        write(root / name, SILENT) if name.endswith((".wav", ".flac")) else touch(root / name)
    return root


def touch(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rows(manifest):
    return [(manifest.relative(row), row.identity, row.group, row.split) for row in manifest.rows]


VOXCELEB = ("id10270/x6uYqmx31kE/00001.wav", "id10270/8jEAjG6SegY/00008.wav", "id10300/ize_eiCFEg0/00003.wav")


@pytest.mark.parametrize("below", ["", "wav/", "dev/wav/"])
def test_voxceleb(tmp_path, below):
    root = make(tmp_path / "vox", *(below + name for name in VOXCELEB))
    manifest = TASK.read(root)
    assert rows(manifest) == [
        (f"{below}id10270/8jEAjG6SegY/00008.wav", "id10270", "id10270/8jEAjG6SegY", ""),
        (f"{below}id10270/x6uYqmx31kE/00001.wav", "id10270", "id10270/x6uYqmx31kE", ""),
        (f"{below}id10300/ize_eiCFEg0/00003.wav", "id10300", "id10300/ize_eiCFEg0", ""),
    ]


def test_voxceleb_2_has_to_be_converted_first(tmp_path):
    make(tmp_path, "dev/aac/id00012/21Uxsk56VDQ/00001.m4a")
    with pytest.raises(DataError, match=r"no sample in it; .*00001\.m4a: suffix '\.m4a' is not one of"):
        TASK.read(tmp_path)


def test_librispeech(tmp_path):
    root = make(
        tmp_path, "103/1240/103-1240-0000.flac", "103/1241/103-1241-0003.flac", "1034/121119/1034-121119-0000.flac"
    )
    make(root, "103/1240/103-1240.trans.txt", "103/1240/cover.flac", "103/1240/.hidden.flac")
    manifest = TASK.read(root)
    assert rows(manifest) == [
        ("103/1240/103-1240-0000.flac", "103", "103-1240", ""),
        ("103/1241/103-1241-0003.flac", "103", "103-1241", ""),
        ("1034/121119/1034-121119-0000.flac", "1034", "1034-121119", ""),
    ]
    assert [(s.path, s.reason) for s in manifest.skipped] == [
        ("103/1240/cover.flac", "its name is not speaker-chapter-utterance")
    ]


def test_subsets_of_librispeech_are_the_split(tmp_path):
    make(tmp_path, "train-clean-100/103/1240/103-1240-0000.flac", "dev-clean/84/121/84-121-0000.flac")
    make(tmp_path, "test-other/367/13/367-13-0000.flac", "SPEAKERS.TXT")
    assert {row.identity: row.split for row in TASK.read(tmp_path).rows} == {
        "103": "train",
        "84": "validation",
        "367": "test",
    }
    # One subset alone is divided by tercet.
    assert {row.split for row in TASK.read(tmp_path / "dev-clean").rows} == {""}


def test_cn_celeb(tmp_path):
    make(tmp_path, "data/id00000/singing-01-002.flac", "data/id00000/interview-02-001.flac")
    make(tmp_path, "data/id00800/drama-01-001.flac", "eval/enroll/id00800-enroll.flac", "data/id00000/cover.flac")
    make(tmp_path, "eval/test/id00800-live_broadcast-01-003.flac", "eval/lists/trials.lst")
    manifest = TASK.read(tmp_path)
    assert rows(manifest) == [
        ("data/id00000/interview-02-001.flac", "id00000", "id00000/interview-02", "train"),
        ("data/id00000/singing-01-002.flac", "id00000", "id00000/singing-01", "train"),
        ("data/id00800/drama-01-001.flac", "id00800", "id00800/drama-01", "test"),
        ("eval/enroll/id00800-enroll.flac", "id00800", "id00800/enroll", "test"),
        ("eval/test/id00800-live_broadcast-01-003.flac", "id00800", "id00800/live_broadcast-01", "test"),
    ]
    assert [s.path for s in manifest.skipped] == ["data/id00000/cover.flac"]


def kaldi(folder, scp, utt2spk):
    make(folder.parent, "audio/a.wav", "audio/b.wav")
    touch(folder / "wav.scp", scp)
    touch(folder / "utt2spk", utt2spk)
    return folder


def test_kaldi(tmp_path):
    make(tmp_path / "data", "own.wav")
    folder = kaldi(tmp_path / "data", f"u1 {tmp_path}/audio/a.wav\n\nu2\town.wav\n", "u1 ann\nu2 bob\nu3 bob\n")
    manifest = TASK.read(folder)
    assert rows(manifest) == [((tmp_path / "audio/a.wav").as_posix(), "ann", "", ""), ("own.wav", "bob", "", "")]
    assert [(s.path, s.reason) for s in manifest.skipped] == [("u3", "is in utt2spk and not in wav.scp")]


@pytest.mark.parametrize(
    ("scp", "utt2spk", "said"),
    [
        ("u1 sox a.mp3 -t wav - |\n", "u1 ann\n", r"wav\.scp: line 1: u1 is the output of a command, which is not run"),
        ("\nu1 | rm -rf x\n", "u1 ann\n", r"wav\.scp: line 2: u1 is the output of a command"),
        ("u1\n", "u1 ann\n", r"wav\.scp: line 1: wanted an utterance and its path"),
        ("u1 gone.wav\n", "u1 ann\n", r"wav\.scp: line 1: no such file: .*gone\.wav"),
        ("u1 ../audio/a.wav\n", "u1 ann\n", r"wav\.scp: line 1: .*leads out of the list's folder"),
        ("u2 own.wav\n", "u1 ann\n", r"wav\.scp: line 1: u2 has no speaker in .*utt2spk"),
        ("u1 own.wav\nu1 own.wav\n", "u1 ann\n", r"wav\.scp: line 2: u1 is listed twice"),
        ("u1 own.wav\n", "u1 ann\nu2\n", r"utt2spk: line 2: wanted an utterance and its speaker, found 1"),
        ("u1 own.wav\n", "u1 ann\nu1 bob\n", r"utt2spk: line 2: u1 is 'bob' here and 'ann' above"),
        ("", "u1 ann\n", r"no sample in it; u1: is in utt2spk"),
    ],
)
def test_errors_of_kaldi_lists_name_the_line(tmp_path, scp, utt2spk, said):
    make(tmp_path / "data", "own.wav")
    with pytest.raises(DataError, match=said):
        TASK.read(kaldi(tmp_path / "data", scp, utt2spk))


def test_kaldi_recordings_that_are_cut_up_are_refused(tmp_path):
    folder = kaldi(tmp_path / "data", "u1 own.wav\n", "u1 ann\n")
    touch(folder / "segments", "u1-1 u1 0.0 2.5\n")
    with pytest.raises(DataError, match=r"segments: recordings that are cut up by a list are not read"):
        TASK.read(folder)
    (folder / "segments").unlink()
    (folder / "utt2spk").write_bytes(b"u1 \xff\n")
    with pytest.raises(DataError, match=r"utt2spk: is not UTF-8 text"):
        TASK.read(folder)
    (folder / "utt2spk").write_text("u1 ann\n")
    (folder / "wav.scp").unlink()
    with pytest.raises(DataError, match=r"wav\.scp: No such file"):
        layouts.read_kaldi(folder, SUFFIXES)


def test_speechbrain(tmp_path):
    make(tmp_path, "a/1.wav", "b/2.wav")
    csv = tmp_path / "train.csv"
    csv.write_text(
        "ID, duration, wav, start, stop, spk_id\n"
        "x0, 3.0, {data_root}/a/1.wav, 0, 48000, ann\n"
        "x1, 3.0, $data_root/a/1.wav, 48000, 96000, ann\n"
        f"x2, 3.0, {tmp_path}/b/2.wav, 0, 48000, bob\n"
    )
    assert rows(TASK.read(csv)) == [("a/1.wav", "ann", "", ""), ("b/2.wav", "bob", "", "")]
    for line, said in (
        ("y,1,a/1.wav,0,1,\n", r"line 2: wav or spk_id is blank"),
        ("y,1,c/3.wav,0,1,ann\n", r"line 2: no such file: .*3\.wav"),
        ("y,1,a/1.wav,0,1,ann\nz,1,a/1.wav,0,1,bob\n", r"line 3: a/1\.wav is 'bob' here and 'ann' above"),
        ("y,1,../1.wav,0,1,ann\n", r"line 2: .*leads out"),
    ):
        csv.write_text("ID,duration,wav,start,stop,spk_id\n" + line)
        with pytest.raises(DataError, match=rf"train\.csv: {said}"):
            TASK.read(csv)


def test_what_is_in_no_such_layout_is_a_folder_per_speaker_or_a_manifest(tmp_path):
    """Folders named by numbers or ids are no collection yet; recognising never raises."""
    make(tmp_path / "mini", "103/103-1240-0000_seg0.flac", "1034/1034-121119-0005_seg0.flac")
    make(tmp_path / "ids", "id00012/a.wav", "id00013/b.wav")
    for name, expected in (("mini", ["103", "1034"]), ("ids", ["id00012", "id00013"])):
        assert list(TASK.read(tmp_path / name).identities) == expected
    touch(tmp_path / "list.csv", "path,identity\nids/id00012/a.wav,ann\n")
    assert TASK.read(tmp_path / "list.csv").identities == ("ann",)
    for odd in (tmp_path / "none", tmp_path / "list.csv", tmp_path / "a\0b"):
        for layout in TASK.layouts:
            assert not layout.recognise(odd)


def test_asked_for_by_name_a_layout_that_is_not_there_is_refused(tmp_path):
    make(tmp_path, "ann/1.wav")
    for layout in ("voxceleb", "librispeech", "cn-celeb"):
        with pytest.raises(DataError, match="no sample in it"):
            TASK.read(tmp_path, layout=layout)
    with pytest.raises(DataError, match=r"utt2spk: No such file"):
        TASK.read(tmp_path, layout="kaldi")
    with pytest.raises(DataError, match="Is a directory"):
        TASK.read(tmp_path, layout="speechbrain")


@pytest.mark.data
def test_shared_speech_is_read_as_folders(shared_data):
    for name, speakers in (("librispeech_mini", 251), ("arabic_speech_commands", 30)):
        assert len(TASK.read(shared_data / "speakers" / name).identities) == speakers
