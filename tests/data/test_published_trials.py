"""Published lists of pairs beside the trees that they are published for: every path finds its sample, and only that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tercet.data.trials import Trials, read_trials
from tercet.errors import DataError
from tercet.tasks import load_task


def touch(root: Path, *names: str) -> Path:
    """Empty files: neither a list nor a layout opens a sample."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def read(task: str, data: Path, pairs: Path) -> tuple[list[tuple[str, str, bool]], Trials]:
    """The pairs as `tercet evaluate --pairs` reads them, each file one of the samples."""
    manifest = load_task(task).read(data)
    found = read_trials(pairs, manifest)
    samples = {row.path: manifest.relative(row) for row in manifest.rows}
    return [
        (samples[a], samples[b], bool(same)) for a, b, same in zip(found.a, found.b, found.genuine, strict=True)
    ], found


VOX = ("id10270/x6uYqmx31kE/00001.wav", "id10270/8jEAjG6SegY/00008.wav", "id10300/ize_eiCFEg0/00003.wav")


@pytest.mark.parametrize("places", [("wav/",) * 3, ("dev/wav/", "dev/wav/", "test/wav/"), ("",) * 3])
def test_voxceleb_names_its_files_from_the_speaker_on(places, tmp_path):
    data = touch(tmp_path / "vox", *(place + name for place, name in zip(places, VOX, strict=True)))
    pairs = write(tmp_path / "veri_test2.txt", f"1 {VOX[0]} {VOX[1]}", f"0 {VOX[0]} {VOX[2]}")
    a, b, c = (place + name for place, name in zip(places, VOX, strict=True))
    assert read("speakers", data, pairs)[0] == [(a, b, True), (a, c, False)]


def test_voxceleb_2_names_what_was_converted(tmp_path):
    """Its .m4a lie beside the .wav that were made of them, and are no samples."""
    made = [name.replace(".wav", ".m4a") for name in VOX]
    data = touch(tmp_path, *(f"aac/{name}" for name in (*VOX, *made)))
    pairs = write(tmp_path / "list_test_all2.txt", f"1 {made[0]} {made[1]}", f"0 aac/{made[0]} {made[2]}")
    a, b, c = (f"aac/{name}" for name in VOX)
    assert read("speakers", data, pairs)[0] == [(a, b, True), (a, c, False)]


def test_cn_celeb_names_wav_from_eval_on_where_there_is_flac(tmp_path):
    data = touch(
        tmp_path,
        "data/id00000/singing-01-002.flac",
        "eval/enroll/id00800-enroll.flac",
        "eval/test/id00800-drama-01-003.flac",
        "eval/test/id00801-vlog-01-001.flac",
    )
    write(data / "eval/lists/enroll.lst", "id00800-enroll enroll/id00800-enroll.wav")
    pairs = write(
        data / "eval/lists/trials.lst",
        "id00800-enroll test/id00800-drama-01-003.wav 1",
        "id00800-enroll test/id00801-vlog-01-001.wav 0",
    )
    assert read("speakers", data, pairs)[0] == [
        ("eval/enroll/id00800-enroll.flac", "eval/test/id00800-drama-01-003.flac", True),
        ("eval/enroll/id00800-enroll.flac", "eval/test/id00801-vlog-01-001.flac", False),
    ]


def kaldi(tmp_path: Path) -> Path:
    audio = touch(tmp_path / "audio", "a.wav", "b.wav", "secret.wav")
    data = touch(tmp_path / "data", "own.wav")
    write(data / "wav.scp", f"u1 {audio}/a.wav", f"u2 {audio}/./b.wav", "u3 own.wav")
    write(data / "utt2spk", "u1 ann", "u2 ann", "u3 bob")
    return data


def test_kaldi_names_utterances_whose_paths_may_be_absolute(tmp_path):
    data = kaldi(tmp_path)
    found, _ = read("speakers", data, write(data / "trials", "u1 u2 target", "u1 u3 nontarget"))
    a, b = ((tmp_path / "audio" / name).as_posix() for name in ("a.wav", "b.wav"))
    assert found == [(a, b, True), (a, "own.wav", False)]
    by_path, _ = read("speakers", data, write(tmp_path / "by_path.txt", f"{a} {b} 1", f"{a} own.wav 0"))
    assert by_path == found


def test_an_absolute_path_is_one_of_the_samples_or_refused(tmp_path):
    data = kaldi(tmp_path)
    manifest = load_task("speakers").read(data)
    secret = tmp_path / "audio" / "secret.wav"
    for named in (secret, f"{data}/../audio/secret.wav", data / "none.wav", data / "wav.scp"):
        pairs = write(tmp_path / "pairs.txt", "own.wav own.wav 1", f"own.wav {named} 0")
        with pytest.raises(DataError, match=r"pairs\.txt: line 2: .* is an absolute path"):
            read_trials(pairs, manifest)
    write(tmp_path / "wav.scp", "u1 own.wav", f"u2 {secret}")
    with pytest.raises(DataError, match=r"wav\.scp: line 2: .*secret\.wav is an absolute path"):
        read_trials(write(tmp_path / "trials", "u1 u2 target"), manifest)


BHSIG = ("B-S-001-G-01.tif", "B-S-001-G-02.tif", "B-S-001-F-01.tif")


@pytest.mark.parametrize("mark", ["/", "\\"])
@pytest.mark.parametrize("start", ["001/", "", "Bengali/001/", "BHSig260/Bengali/001/"])
def test_bhsig260_names_its_files_from_any_folder_on(start, mark, tmp_path):
    data = touch(tmp_path / "BHSig260", *(f"Bengali/001/{name}" for name in BHSIG), "Hindi/001/H-S-001-G-01.tif")
    a, b, c = (f"{start}{name}".replace("/", mark) for name in BHSIG)
    pairs = write(tmp_path / "Bengali_pairs.txt", f"{a} {b} 1", f"{a} {c} 0")
    a, b, c = (f"Bengali/001/{name}" for name in BHSIG)
    assert read("signatures", data, pairs)[0] == [(a, b, True), (a, c, False)]


def test_the_pictures_of_lfw_may_lie_deeper_and_be_of_another_kind(tmp_path):
    data = touch(tmp_path, "lfw/Bo/Bo_0001.png", "lfw/Bo/Bo_0002.png", "lfw/Cy/Cy_0001.png", "list.csv")
    write(data / "list.csv", "path,identity", *(f"lfw/{n}/{n}_000{i}.png,{n}" for n, i in (("Bo", 1), ("Bo", 2))))
    with (data / "list.csv").open("a") as file:
        file.write("lfw/Cy/Cy_0001.png,Cy\n")
    found, trials = read("faces", data / "list.csv", write(tmp_path / "pairs.txt", "1\t1", "Bo\t1\t2", "Bo\t1\tCy\t1"))
    bo = [f"lfw/Bo/Bo_000{i}.png" for i in (1, 2)]
    assert found == [(bo[0], bo[1], True), (bo[0], "lfw/Cy/Cy_0001.png", False)] and trials.fold.tolist() == [0, 0]


def test_what_could_be_two_samples_is_refused_by_line_with_both(tmp_path):
    data = touch(tmp_path / "vox", f"dev/wav/{VOX[0]}", f"test/wav/{VOX[0]}", f"dev/wav/{VOX[1]}")
    manifest = load_task("speakers").read(data)
    pairs = write(tmp_path / "pairs.txt", f"1 {VOX[1]} {VOX[1]}", f"0 {VOX[1]} {VOX[0]}")
    said = rf"line 2: {VOX[0]} could be dev/wav/{VOX[0]} or test/wav/{VOX[0]}"
    with pytest.raises(DataError, match=said) as error:
        read_trials(pairs, manifest)
    assert str(error.value).startswith(f"{pairs}: ") and "\n" not in str(error.value)
    write(pairs, f"1 {VOX[1]} {VOX[1]}", f"0 {VOX[1]} test/wav/{VOX[0]}")
    assert read("speakers", data, pairs)[0][1][1] == f"test/wav/{VOX[0]}"


def test_two_kinds_of_file_with_one_name_are_told_apart_only_by_the_suffix(tmp_path):
    data = touch(tmp_path / "people", "ann/1.wav", "ann/1.flac", "ann/2.wav", "bob/1.wav")
    manifest = load_task("speakers").read(data)
    pairs = write(tmp_path / "pairs.txt", "ann/2.wav ann/1.mp3 1")
    with pytest.raises(DataError, match=r"line 1: ann/1\.mp3 could be ann/1\.flac or ann/1\.wav"):
        read_trials(pairs, manifest)
    assert read("speakers", data, write(pairs, "ann/2.wav ann/1.wav 1"))[0] == [("ann/2.wav", "ann/1.wav", True)]


def test_a_name_that_goes_on_after_a_dot_is_no_suffix(tmp_path):
    data = touch(tmp_path / "people", "ann/take.wav", "bob/take.1.wav")
    manifest = load_task("speakers").read(data)
    with pytest.raises(DataError, match=r"line 1: no such file: ann/take\.2"):
        read_trials(write(tmp_path / "pairs.txt", "bob/take.1.wav ann/take.2 0"), manifest)


def test_from_the_root_on_a_path_means_what_it_says(tmp_path):
    """`a/1.png` beside `b/a/1.png` is the first; a file that is there and no sample is not taken for another."""
    data = touch(tmp_path / "people", "a/1.png", "b/a/1.png", "b/.hidden/2.png", "c/b/2.png", "c/b/x11.png")
    touch(data, "c/b/.hidden/2.png")
    manifest = load_task("faces").read(data)
    pairs = tmp_path / "pairs.txt"
    found = read_trials(write(pairs, "a/1.png b/.hidden/2.png 1"), manifest)
    assert found.a == (data / "a/1.png",) and found.b == (data / "b/.hidden/2.png",)
    with pytest.raises(DataError, match=r"line 1: 1\.png could be a/1\.png or b/a/1\.png"):
        read_trials(write(pairs, "a/1.png 1.png 1"), manifest)
    with pytest.raises(DataError, match=r"line 1: no such file: 11\.png"):  # the end of a name is no end of a path
        read_trials(write(pairs, "a/1.png 11.png 1"), manifest)


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_no_path_leads_out_of_the_data(tmp_path):
    data = touch(tmp_path / "people", "ann/1.png", "bob/1.png")
    touch(tmp_path, "secret/1.png")
    (data / ".aside").symlink_to(tmp_path / "secret")
    manifest = load_task("faces").read(data)
    for named, said in (
        ("../secret/1.png", "leads out of the data's folder"),
        ("ann/../../secret/1.png", "leads out of the data's folder"),
        (".aside/1.png", "leads out of the data's folder through a link"),
        ("secret/1.png", "no such file"),
        ("x" * 300 + "\\1.png", "File name too long|no such file"),
    ):
        with pytest.raises(DataError, match=f"line 2: .*{said}"):
            read_trials(write(tmp_path / "pairs.txt", "ann/1.png ann/1.png 1", f"ann/1.png {named} 0"), manifest)
