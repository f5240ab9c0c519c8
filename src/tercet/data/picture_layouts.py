"""Collections of pictures as they are published: CUB-200, Cars-196, Stanford Online Products, In-Shop, VGGFace2, OML.

Each has a `recognises_...`, which looks at a few names and never raises, and a `read_...`, which lists the pictures and
opens none of them. The split is the one that results are compared on: no class is in training and in the test.

LFW, ORL and CASIA-WebFace are `People`: a folder per person, and no split.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from tercet.data.layouts import read_data
from tercet.data.listing import Found, entries, files, folders, headings, inside, lines, names, records
from tercet.data.manifest import Manifest
from tercet.errors import DataError

__all__ = [
    "CASIA",
    "LFW",
    "ORL",
    "People",
    "read_cars",
    "read_cub",
    "read_in_shop",
    "read_oml",
    "read_sop",
    "read_vggface2",
    "recognises_cars",
    "recognises_cub",
    "recognises_in_shop",
    "recognises_oml",
    "recognises_sop",
    "recognises_vggface2",
]

_CUB_TRAINED: Final = 100  # of the 200 classes the first half is trained on; Song et al. 2016
_CARS_TRAINED: Final = 98  # likewise of 196
_CARS_DEVKIT: Final = "devkit/cars_train_annos.mat"
_IN_SHOP: Final = "list_eval_partition.txt"
_VGG: Final = re.compile(r"n\d{6}")
_VISIBLE: Final = re.compile(r"[^.].*", re.DOTALL)
_BESIDE: Final = 10  # so few entries has what an archive unpacks to, beside the folder that holds the people
_OML_COLUMNS: Final = ("label", "path", "split")
_OML_MARKS: Final = {
    "true": True,
    "1": True,
    "1.0": True,
    "false": False,
    "0": False,
    "0.0": False,
    "": False,
    "nan": False,
}


def recognises_cub(path: Path) -> bool:
    """`images.txt`, `image_class_labels.txt` and `images/`."""
    return (path / "images").is_dir() and all(
        (path / name).is_file() for name in ("images.txt", "image_class_labels.txt")
    )


def read_cub(path: Path, suffixes: frozenset[str]) -> Manifest:
    """CUB-200-2011: classes 1 to 100 are trained on, 101 to 200 are the test (not the classification split).

    Raises:
        DataError: A list is missing or a line is off: "file: line n: reason".
    """
    found = Found(path, suffixes)
    pictures = _numbered(path / "images.txt")
    classes = _numbered(path / "image_class_labels.txt")
    for number, (where, picture) in pictures.items():
        if number not in classes:
            raise DataError(f"{where}: picture {number} has no class in {path / 'image_class_labels.txt'}")
        where_class, named = classes[number]
        if not named.isdecimal():
            raise DataError(f"{where_class}: class {named!r} is not a number")
        split = "train" if int(named) <= _CUB_TRAINED else "test"
        file = inside(found.root / "images", picture, where)
        found.add(file, file.parent.name, split=split, where=where)
    return found.manifest()


def recognises_cars(path: Path) -> bool:
    """`cars_annos.mat`, or the devkit that came before it, which is refused."""
    return (path / "cars_annos.mat").is_file() or (path / _CARS_DEVKIT).is_file()


def read_cars(path: Path, suffixes: frozenset[str]) -> Manifest:
    """Cars-196 by `cars_annos.mat`: classes 1 to 98 are trained on, 99 to 196 are the test.

    Raises:
        DataError: The annotations cannot be read, or name a picture that is not there.
    """
    from scipy.io import loadmat

    listed = path / "cars_annos.mat"
    if not listed.is_file() and (path / _CARS_DEVKIT).is_file():
        # Its parts are of the classification task: figures of them would be compared with what they are no match for.
        raise DataError(
            f"{path}: Cars-196 by its devkit (cars_train, cars_test) is not read, since all classes are in both parts;"
            " give the folder that holds cars_annos.mat and car_ims"
        )
    try:
        content: dict[str, Any] = loadmat(listed, squeeze_me=True, simplify_cells=True)
        classes = [str(name) for name in content["class_names"]]
        annotations = [(str(a["relative_im_path"]), int(a["class"])) for a in content["annotations"]]
    except Exception as error:  # its reader raises all sorts on damaged files
        raise DataError(f"{listed}: cannot be read as the annotations of Cars-196 ({error})") from error
    found = Found(path, suffixes)
    for number, (picture, named) in enumerate(annotations, start=1):
        where = f"{listed}: annotation {number}"
        if not 1 <= named <= len(classes):
            raise DataError(f"{where}: class {named} is not one of {len(classes)}")
        split = "train" if named <= _CARS_TRAINED else "test"
        found.add(inside(found.root, picture, where), classes[named - 1], split=split, where=where)
    return found.manifest()


def recognises_sop(path: Path) -> bool:
    """`Ebay_train.txt` and `Ebay_test.txt`."""
    return (path / "Ebay_train.txt").is_file() and (path / "Ebay_test.txt").is_file()


def read_sop(path: Path, suffixes: frozenset[str]) -> Manifest:
    """Stanford Online Products: `image_id class_id super_class_id path`, after a line of headings.

    The super class is the category.

    Raises:
        DataError: A list is missing or a line is off: "file: line n: reason".
    """
    found = Found(path, suffixes)
    for name, split in (("Ebay_train.txt", "train"), ("Ebay_test.txt", "test")):
        for number, (where, line) in enumerate(lines(path / name)):
            fields = line.split()
            if len(fields) != 4:
                raise DataError(f"{where}: wanted image_id class_id super_class_id path, found {len(fields)} fields")
            if number:
                file = inside(found.root, fields[3], where)
                found.add(file, fields[1], split=split, category=fields[2], where=where)
    return found.manifest()


def recognises_in_shop(path: Path) -> bool:
    """`list_eval_partition.txt`, in the folder or in `Eval` below it."""
    return any((folder / _IN_SHOP).is_file() for folder in (path, path / "Eval"))


def read_in_shop(path: Path, suffixes: frozenset[str]) -> Manifest:
    """In-Shop Clothes Retrieval: its queries and its gallery together are the test, and are told apart in retrieval.

    Raises:
        DataError: The list is missing or a line is off: "file: line n: reason".
    """
    found = Found(path, suffixes)
    listed = next((folder / _IN_SHOP for folder in (path, path / "Eval") if (folder / _IN_SHOP).is_file()), path)
    split_of = {"train": "train", "query": "test", "gallery": "test"}
    for number, (where, line) in enumerate(lines(listed)):
        if number < 2:  # how many there are, and the headings
            continue
        fields = line.split()
        if len(fields) != 3 or fields[2] not in split_of:
            raise DataError(f"{where}: wanted image_name item_id train|query|gallery, found {line!r}")
        base = found.root if (found.root / fields[0]).is_file() else found.root / "Img"
        role = "" if fields[2] == "train" else fields[2]
        file = inside(base, fields[0], where)
        category = "/".join(file.parts[-4:-2])  # img/WOMEN/Dresses/id_00000002/...: what is worn by whom
        found.add(file, fields[1], split=split_of[fields[2]], role=role, category=category, where=where)
    return found.manifest()


def recognises_vggface2(path: Path) -> bool:
    """`train/n000002/` or `test/n000001/`."""
    return any(entries(path / part, _VGG) for part in ("train", "test"))


def read_vggface2(path: Path, suffixes: frozenset[str]) -> Manifest:
    """VGGFace2: the people in `train` are trained on, those in `test` are the test; one part alone is divided as usual.

    Raises:
        DataError: No picture.
    """
    found = Found(path, suffixes)
    parts = [part for part in ("train", "test") if (path / part).is_dir()]
    for part in parts:
        for person in folders(found.root / part):
            for file in files(person):
                found.add(file, person.name, split=part if len(parts) == 2 else "")
    return found.manifest()


@final
@dataclass(frozen=True)
class People:
    """A collection of faces in a folder per person, known by how it names them.

    Attributes:
        wanted: what the collection is, for errors.
        pattern: of a person's folder and a picture in it.
    """

    wanted: str
    pattern: re.Pattern[str]

    def recognise(self, path: Path) -> bool:
        """Whether the folders of `path`, or those of the only folder in it, have such names."""
        return self._place(path) is not None

    def read(self, path: Path, suffixes: frozenset[str]) -> Manifest:
        """Every picture in a person's folder, whatever its name.

        Raises:
            DataError: No folder with such names, or no picture.
        """
        place = self._place(path)
        if place is None:
            raise DataError(f"{path}: no {self.wanted} in it; for any other folder per person give --layout folders")
        return read_data(place, layout="folders", suffixes=suffixes)

    def _place(self, path: Path) -> Path | None:
        """Where the people lie: `path`, or one or two folders below it where an archive holds nothing else."""
        for _ in range(3):
            below = entries(path, _VISIBLE)
            if any(self.pattern.fullmatch(f"{person.name}/{name}") for person in below for name in names(person)):
                return path
            if len(below) != 1 or len(names(path)) > _BESIDE:
                return None
            path = below[0]
        return None


LFW = People(
    "LFW (Abel_Pacheco/Abel_Pacheco_0001.jpg)",
    re.compile(r"(?P<person>[^/]+)/(?P=person)_\d{4}\.\w+"),
)
ORL = People("ORL (s1/1.pgm)", re.compile(r"s\d{1,2}/\d{1,2}\.\w+"))
# As published, and as insightface's records are unpacked.
CASIA = People(
    "CASIA-WebFace (0000045/001.jpg or 0_0_0000045/0_1.jpg)",
    re.compile(r"\d{7}/\d{3}\.\w+|\d+_\d+_\d{7}/\d+_\d+\.\w+"),
)


def recognises_oml(path: Path) -> bool:
    """A CSV file with the columns `label`, `path` and `split`."""
    found = headings(path)
    return set(_OML_COLUMNS) <= found and "identity" not in found


def read_oml(path: Path, suffixes: frozenset[str]) -> Manifest:
    """The data frame of open-metric-learning: `validation` is the test, a `sequence` is the group.

    `is_query` and `is_gallery` (True, False or blank) say who is searched for and who is searched in; `category`
    is a column too.

    Raises:
        DataError: A line is off, or a picture is missing: "file: line n: reason".
    """
    found = Found(path.parent, suffixes)
    split_of = {"train": "train", "validation": "test"}
    for where, record in records(path):
        label, picture, split = (record.get(name, "") for name in _OML_COLUMNS)
        if not label or not picture or split not in split_of:
            raise DataError(f"{where}: wanted a label, a path and a split of train or validation")
        marked = []
        for name in ("is_query", "is_gallery"):
            text = record.get(name, "").lower()
            if text not in _OML_MARKS:
                raise DataError(f"{where}: wanted True, False or nothing under {name}, found {text!r}")
            marked.append(_OML_MARKS[text])
        role = "both" if all(marked) else "query" if marked[0] else "gallery" if marked[1] else ""
        target = inside(found.root, picture, where)
        found.add(
            target,
            label,
            group=record.get("sequence", ""),
            split=split_of[split],
            role=role,
            category=record.get("category", ""),
            where=where,
        )
    return found.manifest()


def _numbered(path: Path) -> dict[str, tuple[str, str]]:
    """A list of `number value`: number -> (where, value)."""
    found: dict[str, tuple[str, str]] = {}
    for where, line in lines(path):
        number, _, value = line.partition(" ")
        if not number.isdecimal() or not value:
            raise DataError(f"{where}: wanted a number and a value, found {line!r}")
        if number in found:
            raise DataError(f"{where}: {number} is listed twice")
        found[number] = (where, value.strip())
    return found
