"""Each published layout of pictures as a miniature: recognised, split as results are compared on, errors by line."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tercet.errors import DataError
from tercet.tasks import load_task


def draw(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), 90).save(path)
    return path


def parts(manifest):
    """{split: identities}"""
    found = {}
    for row in manifest.rows:
        found.setdefault(row.split, set()).add(row.identity)
    return found


def cub(root: Path) -> Path:
    names = {99: "099.Ovenbird", 100: "100.Pelican", 101: "101.White_Pelican", 200: "200.Yellowthroat"}
    pictures = [(f"{names[c]}/a{i}.jpg", c) for c in names for i in range(2)]
    for picture, _ in pictures:
        draw(root / "images" / picture)
    (root / "images.txt").write_text("".join(f"{n} {p}\n" for n, (p, _) in enumerate(pictures, 1)))
    (root / "image_class_labels.txt").write_text("".join(f"{n} {c}\n" for n, (_, c) in enumerate(pictures, 1)))
    (root / "train_test_split.txt").write_text("".join(f"{n} {n % 2}\n" for n in range(1, len(pictures) + 1)))
    return root


def cars(root: Path) -> Path:
    names = [f"Car {n}" for n in range(1, 197)]
    annotations = []
    for number, named in enumerate((1, 98, 99, 196), 1):
        picture = f"car_ims/{number:06d}.jpg"
        draw(root / picture)
        annotations.append((picture, 1, 1, 8, 8, named, number % 2))
    kinds = [("relative_im_path", object), *((n, object) for n in ("x1", "y1", "x2", "y2", "class", "test"))]
    savemat(
        root / "cars_annos.mat",
        {"annotations": np.array(annotations, dtype=kinds), "class_names": np.array(names, dtype=object)},
    )
    return root


def sop(root: Path) -> Path:
    for part, classes in (("train", (1, 2)), ("test", (3, 4))):
        lines = ["image_id class_id super_class_id path"]
        for named in classes:
            picture = f"bicycle_final/{named}_0.JPG"
            draw(root / picture.replace(".JPG", ".jpg")).rename(root / picture)
            lines.append(f"{named} {named} 1 {picture}")
        (root / f"Ebay_{part}.txt").write_text("\n".join(lines) + "\n")
    return root


def in_shop(root: Path) -> Path:
    rows = [("id_1", "train"), ("id_2", "train"), ("id_3", "query"), ("id_3", "gallery"), ("id_4", "gallery")]
    lines = [str(len(rows)), "image_name item_id evaluation_status"]
    for number, (item, status) in enumerate(rows):
        picture = f"img/WOMEN/Dresses/{item}/{number:02d}_1_front.jpg"
        draw(root / picture)
        lines.append(f"{picture}        {item}        {status}")
    (root / "Eval").mkdir()
    (root / "Eval" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return root


def vggface2(root: Path) -> Path:
    for part, person in (("train", "n000002"), ("train", "n000003"), ("test", "n000001"), ("test", "n000009")):
        draw(root / part / person / "0001_01.jpg")
    return root


def oml(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "df.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "path", "split", "is_query", "is_gallery", "sequence", "category"])
        for label, split, sequence in ((1, "train", 7), (2, "train", 8), (3, "validation", 9), (4, "validation", 9)):
            draw(root / "images" / f"{label}.png")
            held = "" if split == "train" else True
            writer.writerow([label, f"images/{label}.png", split, held, held, sequence, "birds"])
    return root / "df.csv"


def lfw(root: Path) -> Path:
    for person, count in (("Abel_Pacheco", 2), ("George_W_Bush", 3)):
        for number in range(count):
            draw(root / person / f"{person}_{number + 1:04d}.jpg")
    (root / "pairs.txt").write_text("1\t1\nAbel_Pacheco\t1\t2\nAbel_Pacheco\t1\tGeorge_W_Bush\t3\n")
    return root


def orl(root: Path) -> Path:
    for person in (1, 2, 40):
        for number in (1, 10):
            draw(root / f"s{person}" / f"{number}.pgm")
    (root / "README").write_text("as published")
    return root


def casia(root: Path) -> Path:
    for person in ("0000045", "0000099"):
        draw(root / person / "001.jpg")
    return root


CASES = {
    "cub": (cub, "images", {"099.Ovenbird", "100.Pelican"}, {"101.White_Pelican", "200.Yellowthroat"}),
    "cars": (cars, "images", {"Car 1", "Car 98"}, {"Car 99", "Car 196"}),
    "sop": (sop, "images", {"1", "2"}, {"3", "4"}),
    "in-shop": (in_shop, "images", {"id_1", "id_2"}, {"id_3", "id_4"}),
    "oml": (oml, "images", {"1", "2"}, {"3", "4"}),
    "vggface2": (vggface2, "faces", {"n000002", "n000003"}, {"n000001", "n000009"}),
    # Published without a split of the people: tercet divides them.
    "lfw": (lfw, "faces", {"Abel_Pacheco", "George_W_Bush"}, None),
    "orl": (orl, "faces", {"s1", "s2", "s40"}, None),
    "casia": (casia, "faces", {"0000045", "0000099"}, None),
}


def test_every_layout_of_pictures_is_tried_here():
    assert {layout.name for task in ("images", "faces") for layout in load_task(task).layouts} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_layout_is_recognised_and_split_by_class(name, tmp_path):
    write, task_name, train, test = CASES[name]
    path = write(tmp_path / "data")
    task = load_task(task_name)
    assert [layout.name for layout in task.layouts if layout.recognise(path)] == [name]
    found = task.read(path)
    assert parts(found) == ({"": train} if test is None else {"train": train, "test": test})
    assert found == task.read(path, layout=name) and not found.skipped
    assert all(row.path.is_file() for row in found.rows)


def test_who_is_searched_for_and_in_what_is_read(tmp_path):
    def roles(found):
        return {(row.identity, row.role) for row in found.rows if row.split == "test"}

    images = load_task("images")
    found = images.read(in_shop(tmp_path / "a"))
    assert roles(found) == {("id_3", "query"), ("id_3", "gallery"), ("id_4", "gallery")}
    assert {row.role for row in found.rows if row.split == "train"} == {""}
    listed = oml(tmp_path / "b")
    assert roles(images.read(listed)) == {("3", "both"), ("4", "both")}
    for text, role in (("True,False", "query"), ("false,1", "gallery"), (",", ""), ("0.0,nan", "")):
        listed.write_text(listed.read_text().replace("validation,True,True", f"validation,{text}"))
        assert roles(images.read(listed)) == {("3", role), ("4", role)}
        listed.write_text(listed.read_text().replace(f"validation,{text}", "validation,True,True"))


@pytest.mark.parametrize(
    ("name", "category"), [("sop", "1"), ("in-shop", "WOMEN/Dresses"), ("oml", "birds"), ("cub", "")]
)
def test_the_category_of_a_class_is_read_where_there_is_one(name, category, tmp_path):
    write, task_name, *_ = CASES[name]
    assert {row.category for row in load_task(task_name).read(write(tmp_path / "data")).rows} == {category}


def test_the_sequence_of_a_data_frame_is_the_group_and_one_part_of_vggface2_is_divided_as_usual(tmp_path):
    assert [row.group for row in load_task("images").read(oml(tmp_path / "a")).rows] == ["7", "8", "9", "9"]
    draw(tmp_path / "b" / "train" / "n000002" / "0001_01.jpg")
    assert {row.split for row in load_task("faces").read(tmp_path / "b").rows} == {""}


@pytest.mark.parametrize(
    ("write", "folder"),
    [(lfw, "lfw"), (lfw, "lfw-deepfunneled/lfw-deepfunneled"), (orl, "att_faces/orl_faces"), (casia, "CASIA-WebFace")],
)
def test_faces_are_found_in_the_folder_that_an_archive_unpacks_to(write, folder, tmp_path):
    faces = load_task("faces")
    found = faces.read(write(tmp_path / "data" / folder))
    (tmp_path / "data" / "readme.txt").write_text("as published")
    assert faces.read(tmp_path / "data") == found
    assert faces.read(tmp_path / "data", layout=write.__name__) == found


def test_casia_as_insightface_unpacks_it(tmp_path):
    for person in ("0_0_0000000", "0_0_0000001"):
        draw(tmp_path / person / "0_0.jpg")
    faces = load_task("faces")
    assert [layout.name for layout in faces.layouts if layout.recognise(tmp_path)] == ["casia"]
    assert faces.read(tmp_path).identities == ("0_0_0000000", "0_0_0000001")


def test_faces_of_other_names_are_a_folder_a_person(tmp_path):
    for picture in ("s1/front.jpg", "Abel_Pacheco/1.jpg", "n1/0001.jpg", "0000045/portrait.jpg"):
        draw(tmp_path / picture)
    faces = load_task("faces")
    assert not any(layout.recognise(tmp_path) for layout in faces.layouts)
    assert faces.read(tmp_path).identities == ("0000045", "Abel_Pacheco", "n1", "s1")
    for name in ("lfw", "orl", "casia"):
        with pytest.raises(DataError, match=f"{tmp_path}: no .* \\(.*\\) in it; for any other folder per person give"):
            faces.read(tmp_path, layout=name)


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("cub", "images.txt", lambda t: t + "nine x.jpg\n", r"images\.txt: line 9: wanted a number and a value"),
        ("cub", "images.txt", lambda t: t + "9 099.Ovenbird/no.jpg\n", r"images\.txt: line 9: picture 9 has no class"),
        ("cub", "images.txt", lambda t: t + "8 x.jpg\n", r"images\.txt: line 9: 8 is listed twice"),
        ("cub", "image_class_labels.txt", lambda t: t.replace("1 99", "1 a"), r"line 1: class 'a' is not a number"),
        ("cub", "images.txt", lambda t: t.replace("a0.jpg", "no.jpg", 1), r"images\.txt: line 1: no such file"),
        ("cub", "images.txt", lambda t: t.replace("099.Ovenbird/a0", "../../x", 1), r"line 1: .* leads out"),
        ("sop", "Ebay_test.txt", lambda t: t + "1 2 3\n", r"Ebay_test\.txt: line 4: wanted .*, found 3 fields"),
        ("in-shop", "Eval/list_eval_partition.txt", lambda t: t.replace("query", "probe"), r"line 5: wanted"),
        ("oml", "df.csv", lambda t: t.replace("validation", "test", 1), r"df\.csv: line 4: wanted a label"),
        (
            "oml",
            "df.csv",
            lambda t: t.replace("True,9", "maybe,9"),
            r"df\.csv: line 4: wanted True, False or nothing under",
        ),
        ("oml", "df.csv", lambda t: t + '"open', r"df\.csv: unexpected end of data"),
        ("oml", "df.csv", lambda t: t.replace("images/1.png", "images/7.png"), r"df\.csv: line 2: no such file"),
        ("cars", "cars_annos.mat", lambda t: "not one", r"cars_annos\.mat: cannot be read as the annotations"),
    ],
)
def test_what_is_off_is_named_with_its_line(name, file, change, message, tmp_path):
    write, task_name, *_ = CASES[name]
    path = write(tmp_path / "data")
    listed = tmp_path / "data" / file
    listed.write_text(change(listed.read_text(errors="replace")))
    with pytest.raises(DataError, match=message):
        load_task(task_name).read(path, layout=name)


def test_cars_by_its_devkit_is_refused_with_what_to_give_instead(tmp_path):
    (tmp_path / "devkit").mkdir()
    (tmp_path / "devkit" / "cars_train_annos.mat").write_bytes(b"")
    draw(tmp_path / "cars_train" / "00001.jpg")
    draw(tmp_path / "cars_test" / "00001.jpg")
    images = load_task("images")
    for layout in ("auto", "cars"):
        with pytest.raises(
            DataError, match=r"devkit.* is not read.*; give the folder that holds cars_annos\.mat"
        ) as error:
            images.read(tmp_path, layout=layout)
        assert "\n" not in str(error.value)
    cars(tmp_path)
    assert len(images.read(tmp_path)) == 4


def test_an_empty_folder_or_a_strange_one_is_none_of_them(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.csv").write_bytes(b"\xff\xfe\x00")
    for task in ("images", "faces"):
        for path in (tmp_path / "empty", tmp_path / "file.csv", tmp_path / "nowhere"):
            assert not any(layout.recognise(path) for layout in load_task(task).layouts)
