"""Turn a data set on disk into training stores and DATA/cases.csv: check, split and prepare case by case.

A bad case is noted and the others go on; a store that stands is kept, so that a call that was cut off can be repeated.
"""

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zarr
from tqdm import tqdm

from airwaylib.errors import InputError
from airwaylib.losses.distance import check_unit
from airwaystudy.data.cases import SPLITS, Case, folder_case, write_table
from airwaystudy.data.layouts import find_cases
from airwaystudy.data.prepare import prepare_files
from airwaystudy.phantoms.case import ensure_phantom
from airwaystudy.phantoms.names import seed_and_size

SHARES = (0.1, 0.1)  # of the cases for validation and test, where a set's authors publish no split of its labels
GB_A_JOB = 6  # memory for a process; 1.6 GB seen for 373 slices (benchmarks/prepare_case.py), some CTs have 1000


@dataclass
class Report:
    """Report of `prepare_dataset`.

    `stores`: path by case; `faults`: one line a bad case; `notes`: remarks; `mended`: by case, in words; `table`: path
    of cases.csv.
    """

    stores: dict[str, Path] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    mended: dict[str, str] = field(default_factory=dict)
    table: Path | None = None


def prepare_dataset(
    layout: str,
    root: str | Path,
    data: str | Path,
    jobs: int | None = None,
    split: Mapping[str, Any] | None = None,
    distance_unit: str = "mm",
    progress: Callable[[Iterable, int], Iterable] = lambda done, total: done,
) -> Report:
    """Prepare the cases of a data set: DATA/prepared/CASE.zarr each and, last, DATA/cases.csv of the good ones.

    Raises `InputError`: nothing of that layout there, a split that does not fit, no good case at all, or a process that
    was killed.

    Parameters
    ----------
    layout, root: how the set lies on disk (`layouts.LAYOUTS`), and where.
    data: folder for the stores and the table.
    jobs: processes; None: `default_jobs`.
    split: names of the cases for `train`, `validation` and `test`; None: `default_split`. Other cases are left out.
    distance_unit: of the distance to the centreline, "mm" or "voxels".
    progress: wraps the iteration over finished cases, such as `tqdm`; gets their number, too.
    """
    check_unit(distance_unit)
    found = find_cases(layout, root)
    report = Report(faults=dict(found.faults), notes=list(found.notes))
    of = default_split(layout, found.cases) if split is None else given_split(split, found.cases, found.faults, root)
    if left := sorted(found.cases.keys() - of.keys()):
        report.notes.append(f"in no split, left out: {', '.join(left)}")
    cases = [case for name, case in found.cases.items() if name in of]
    with results(cases, Path(data) / "prepared", distance_unit, jobs or default_jobs(len(cases))) as done:
        for name, store, fault in progress(done, len(cases)):
            (report.faults if fault else report.stores)[name] = fault or store
    report.stores, report.faults = dict(sorted(report.stores.items())), dict(sorted(report.faults.items()))
    if not report.stores:
        raise InputError(f"{root}: no case could be prepared; {'; '.join(report.faults.values())}")
    for name, store in report.stores.items():
        if mended := zarr.open_group(store, mode="r").attrs.get("mended"):  # older stores lack it
            report.mended[name] = "; ".join(mended)
    good = [case for case in cases if case.name in report.stores]
    rows = [
        {"case": c.name, "split": of[c.name], "ct": c.ct, "airway": c.airway, "mended": report.mended.get(c.name, "")}
        for c in good
    ]
    report.table = write_table(data, rows)
    return report


# -------------------------------------------------------------------------------------------------------------- splits


def default_split(layout: str, names: Iterable[str]) -> dict[str, str]:
    """Split of each case: as the set's paper has it where that is published with its labels, else ours.

    - `bas`: EXACT'09's cases validate; of LIDC's, 2 of 7 test and the others train, as many as in Zheng et al. 2021
      (50, 20, 20), but drawn by us: which they took is not published.
    - `exact09`: its own, CASE01 to CASE20 train and the others test.
    - `aeropath`: all test, as in Støverud et al. 2023; training on it needs a split of one's own.
    - the others: ours, 80 % train, 10 % validation, 10 % test.

    Ours goes by a hash of the names: it is the same everywhere, and a new case hardly moves the others.
    """
    names = sorted(names)
    if layout == "aeropath":
        return dict.fromkeys(names, "test")
    if layout == "exact09":
        return {name: "train" if int(name[-2:]) <= 20 else "test" for name in names}
    if layout == "bas":
        lidc = drawn([name for name in names if name.startswith("LIDC")], 0, 2 / 7)
        return {name: lidc.get(name, "validation") for name in names}
    return drawn(names, *SHARES)


def drawn(names: list[str], validation: float, test: float) -> dict[str, str]:
    """Split by the order of the names' hashes; with three cases or more, no share above 0 stays empty."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    least = int(len(order) >= 3)
    counts = [max(round(share * len(order)), least) if share else 0 for share in (validation, test)]
    splits = ["validation"] * counts[0] + ["test"] * counts[1]
    return dict(zip(order, splits + ["train"] * (len(order) - len(splits)), strict=True))


def given_split(
    split: Mapping[str, Any], names: Iterable[str], faults: Iterable[str] = (), root: str | Path = "the data set"
) -> dict[str, str]:
    """Split of each case by lists of names: `train`, `validation` and `test`.

    A case of `faults` may be named and is passed over.

    Raises `InputError`: another key, no list of names, a name twice or of no case, or no case to train on.
    """
    if unknown := sorted(map(str, set(split) - set(SPLITS))):
        raise InputError(f"split: unknown key {', '.join(unknown)}; choose {', '.join(SPLITS)}")
    of, known, bad = {}, set(names), set(faults)
    for part in SPLITS:
        listed = split.get(part) or []
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise InputError(
                f"split: {part} must be a list of names of cases, such as {sorted(known)[:2]}, digits in quotes"
            )
        for name in listed:
            if name in of:
                raise InputError(f"split: {name} is named twice ({of[name]} and {part}); each case serves once")
            if name not in known | bad:
                raise InputError(f"split: no case {name} in {root}; there are {', '.join(sorted(known)[:5])}, ...")
            of[name] = part
    of = {name: part for name, part in of.items() if name in known}
    if "train" not in of.values():
        raise InputError("split: no case to train on; name at least one under train")
    return of


# ----------------------------------------------------------------------------------------------------------- processes


def default_jobs(cases: int) -> int:
    """Processes: as many as cores and memory (`GB_A_JOB` each) allow, no more than cases, at least one."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        memory = 0
    return max(1, min(os.cpu_count() or 1, int(memory // GB_A_JOB), cases))


@contextmanager
def results(cases: list[Case], out: Path, unit: str, jobs: int) -> Iterator[Iterable[tuple[str, Path, str]]]:
    """Iterate over (case, store, fault) as the cases get done, in `jobs` processes; one works in this one."""
    if jobs == 1:
        yield (prepare_or_say_why(case, out, unit) for case in cases)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = [pool.submit(prepare_or_say_why, case, out, unit) for case in cases]
        yield (future.result() for future in as_completed(futures))
    except BrokenProcessPool:
        raise InputError(
            f"a process was killed, for lack of memory perhaps: give fewer than --jobs {jobs}; what is prepared is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def prepare_or_say_why(case: Case, out: Path, unit: str) -> tuple[str, Path, str]:
    """Name, store and fault of a case, one of the latter two empty; of a fault, one line."""
    try:
        return case.name, prepare_files(case, out, unit), ""
    except InputError as error:
        why = " ".join(str(error).split())
        return case.name, Path(), why if why.startswith(f"{case.name}: ") else f"{case.name}: {why}"
    except MemoryError:
        return case.name, Path(), f"{case.name}: not enough memory; give fewer --jobs"


def prepare_phantoms(data: str | Path, cases: list[str]) -> None:
    """Make what is missing of the phantoms named in `cases`: DATA/raw/CASE and DATA/prepared/CASE.zarr.

    A case that is neither there nor a phantom's name (mini_0007) is left to whoever reads it to miss.
    """
    for case in tqdm(cases, unit="case", desc="phantoms", disable=None):
        if wanted := seed_and_size(case):
            folder = ensure_phantom(*wanted, Path(data) / "raw")
            prepare_files(folder_case(folder), Path(data) / "prepared")
