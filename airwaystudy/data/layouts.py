"""Find the CTs and labels of the public airway data sets on disk, by name of the layout.

docs/your-data.md tells how to get each set, its licence, and what of this could not be confirmed.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from airwaylib.errors import InputError
from airwaystudy.data.cases import Case

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")  # those that volume.read_volume reads
LABELS = re.compile(r"label|mask|annotation|segmentation|(?<![a-z])gt(?![a-z])|airway[^/]*$", re.IGNORECASE)
Place = tuple[str, Path]  # name of a case, and a CT or a label of it


class Layout(NamedTuple):
    """Layout of one data set on disk.

    `expected`: what lies where, for messages; `find`: ROOT -> CTs and labels; `cases`: how many with a public label the
    whole set has, None if any; `unlabelled`: names of cases whose label is not public, as a regular expression.
    """

    expected: str
    find: Callable[[Path], tuple[list[Place], list[Place]]]
    cases: int | None = None
    unlabelled: str = r"(?!)"


class Found(NamedTuple):
    """Contents of a folder: whole cases by name; faults of the others by name; remarks."""

    cases: dict[str, Case]
    faults: dict[str, str]
    notes: list[str]


def find_cases(layout: str, root: str | Path) -> Found:
    """Cases of a data set under `root`, matched by name. Half a pair and a name that occurs twice are faults.

    Raises `InputError`: unknown layout, no such folder, or nothing of that layout in it.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is unknown: choose one of {', '.join(LAYOUTS)}")
    if not Path(root).is_dir():
        raise InputError(f"{root}: no such folder; layout {layout} needs {LAYOUTS[layout].expected}")
    kind = LAYOUTS[layout]
    cts, labels = (_by_name(places) for places in kind.find(Path(root)))
    found, hidden = Found({}, {}, []), []
    for name in sorted(cts.keys() | labels.keys()):
        ct, label = cts.get(name, []), labels.get(name, [])
        if len(ct) == len(label) == 1:
            found.cases[name] = Case(name, ct[0], label[0])
        elif len(ct) > 1 or len(label) > 1:
            twice = " and ".join(map(str, ct if len(ct) > 1 else label))
            found.faults[name] = f"{name}: several {'CTs' if len(ct) > 1 else 'labels'} of this name, {twice}"
        elif ct and re.fullmatch(kind.unlabelled, name):
            hidden.append(name)
        else:
            found.faults[name] = f"{name}: half a pair, {(ct or label)[0]} has no {'airway label' if ct else 'CT'}"
    if hidden:
        found.notes.append(f"left out, their labels are not public: {', '.join(hidden)}")
    if not (found.cases or found.faults or hidden):
        raise InputError(f"{root}: no cases of layout {layout} found; it needs {kind.expected}")
    if kind.cases and len(found.cases) != kind.cases:
        found.notes.append(f"{len(found.cases)} cases found; the whole set has {kind.cases}")
    return found


def _by_name(places: Iterable[Place]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for name, path in places:
        groups.setdefault(name, []).append(path)
    return groups


# ------------------------------------------------------------------------------------------------------- kinds of order


def images(root: Path) -> Iterator[Path]:
    """Image files and folders of DICOM slices under `root`, at any depth, links followed.

    What is hidden and what lies in training stores is left out.
    """
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".zarr"))
        if is_dicom(Path(folder)):
            yield Path(folder)
        yield from (Path(folder, name) for name in sorted(files) if is_image(name))


def is_image(name: str) -> bool:
    """Tell whether a file of this name is an image that can be read, and not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def is_dicom(folder: Path) -> bool:
    """Tell whether one of the first files of a folder is a DICOM slice, by its suffix or its signature."""
    files = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
    for path in files[:3]:  # a readme or DICOMDIR may come first
        if path.suffix.lower() == ".dcm":
            return True
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                return True
    return False


def stem(path: Path) -> str:
    """The name without its image suffix and without nnU-Net's channel `_0000`."""
    name = path.name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return name.removesuffix("_0000")


def two_folders(cts: tuple[str, ...], labels: tuple[str, ...]) -> Callable[[Path], tuple[list[Place], list[Place]]]:
    """A folder of CTs (files, or DICOM folders) beside one of labels, at any depth, matched by name."""

    def find(root: Path) -> tuple[list[Place], list[Place]]:
        return tuple(
            [(stem(path), path) for path in images(root) if path.parent.name in names] for names in (cts, labels)
        )

    return find


def named(*patterns: tuple[str, str]) -> Callable[[Path], tuple[list[Place], list[Place]]]:
    """CTs and labels anywhere, whose case is told by their name or a folder's: (regular expression, case's name).

    A label has `label`, `mask`, `gt`, `annotation` or `segmentation` in its path below the folder that holds them all,
    or `airway` in its file's name.
    """

    def case(parts: tuple[str, ...]) -> str | None:
        for part in reversed(parts):
            for pattern, name in patterns:
                if match := re.search(pattern, part, re.IGNORECASE):
                    return match.expand(name)
        return None

    def find(root: Path) -> tuple[list[Place], list[Place]]:
        places: tuple[list[Place], list[Place]] = ([], [])
        found = list(images(root))
        top = Path(os.path.commonpath(found)) if len(found) > 1 else root  # its name, the set's, tells nothing
        for path in found:
            if name := case(path.relative_to(root).parts):
                places[LABELS.search(path.relative_to(top).as_posix()) is not None].append((name, path))
        return places

    return find


def case_folders(ct: str, label: str, name: Callable[[str], str]) -> Callable[[Path], tuple[list[Place], list[Place]]]:
    """One folder a case under the root or one below: files by regular expressions `ct` and `label`."""

    def find(root: Path) -> tuple[list[Place], list[Place]]:
        found = [path for path in images(root) if path.is_file() and 2 <= len(path.relative_to(root).parts) <= 3]
        return tuple(
            [(name(path.parent.name), path) for path in found if re.fullmatch(pattern, path.name)]
            for pattern in (ct, label)
        )

    return find


EXACT = (r"CASE[-_ ]?(\d\d)(?!\d)", r"EXACT09_CASE\1")
LIDC = (r"LIDC[-_]IDRI[-_](\d{4})", r"LIDC_IDRI_\1")

LAYOUTS = {
    "bas": Layout(
        "LIDC_IDRI_0066 and CASE01 in the names of CTs (EXACT'09's: DICOM folders) and labels, these below a folder or "
        "in a file with `label` in its name",
        named(LIDC, EXACT),
        cases=90,
        unlabelled=r"EXACT09_CASE(2[1-9]|3\d|40)",
    ),
    "atm22": Layout(
        "imagesTr/ATM_001_0000.nii.gz and labelsTr/ATM_001_0000.nii.gz, also below TrainBatch1/ and TrainBatch2/",
        two_folders(("imagesTr",), ("labelsTr",)),
        cases=300,
    ),
    "aiib23": Layout("img/AIIB23_1.nii.gz and gt/AIIB23_1.nii.gz", two_folders(("img",), ("gt",)), cases=120),
    "exact09": Layout(
        "DICOM folders CASE01 to CASE40, and labels (BAS's, say) with CASE01 in their names in a folder labels/",
        named(EXACT),
        unlabelled=r"EXACT09_CASE\d\d",
    ),
    "aeropath": Layout(
        "1/1_CT_HR.nii.gz and 1/1_CT_HR_label_airways.nii.gz, to 27/",
        case_folders(r"\d+_CT_HR\..*", r"\d+_CT_HR_label_airways\..*", lambda folder: f"AeroPath_{folder:>02}"),
        cases=27,
    ),
    "phantom": Layout(
        "one folder a case with ct.* and airway.* in it", case_folders(r"ct\..*", r"airway\..*", lambda folder: folder)
    ),
    "folder": Layout(
        "images/CASE.nii.gz (or _0000.nii.gz, another image file, a DICOM folder) and labels/CASE.nii.gz",
        two_folders(("images",), ("labels",)),
    ),
}
