"""Score mask files against reference files: match cases by name, score one by one, and sum up.

Scores by generation and by diameter take the branches of the parsed reference. A phantom's reference has its own tree
beside it (`tree.csv`): its branches then replace the parsed ones, and also give `td_truth` and `bd_truth`.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume, read_mask, read_volume
from airwaylib.metrics.exact09 import COLUMNS
from airwaylib.metrics.intervals import describe
from airwaylib.metrics.reference import convention_by_name, parse_reference, true_reference
from airwaylib.metrics.scores import by_diameter, by_generation, evaluate_branches, tree_scores

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
TRUTH_COLUMNS = {"branch", "generation", "radius_start", "radius_end"}
TRUTH_COLUMNS |= {f"{end}_{axis}" for end in ("start", "middle", "end") for axis in "xyz"}
SHOWN = {"td": "TD", "bd": "BD", "dsc": "DSC", "precision": "precision", "tpr": "TPR", "cldice": "clDice"}


@dataclass
class Evaluation:
    """Scores of several cases under one convention.

    `scores`: one row a case, see `scores.evaluate`; `groups`: the tables "by_generation" and "by_diameter" of each
    case; `empty`: cases with an empty prediction; `faults`: case -> why it could not be scored; `unmatched`: references
    without a prediction, where these are allowed.
    """

    convention: str
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    groups: dict[str, dict[str, pd.DataFrame]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)

    def summary(self) -> pd.DataFrame:
        """One row a metric: mean, sd, median, low and high over the cases, see `intervals.describe`."""
        metrics = self.scores.drop(columns="case")
        return pd.DataFrame([describe(metrics[name]) for name in metrics], index=metrics.columns)

    def as_text(self) -> str:
        """The main scores as a table for a terminal."""
        columns = {**SHOWN, "td_truth": "TD truth", "bd_truth": "BD truth"}
        columns = {name: title for name, title in columns.items() if name in self.scores}
        table = self.scores[list(columns)].rename(columns=columns).map("{:.2f}".format)
        detected = self.scores[["branches_detected", "branches"]].astype(int).astype(str)
        table["branches"] = detected.agg(" of ".join, axis=1)
        table.insert(0, "case", self.scores["case"])
        if len(self.scores) > 1:
            summary = self.summary().loc[list(columns)]
            for name, values in (("mean", summary["mean"]), ("sd", summary["sd"])):
                table.loc[len(table)] = [name, *values.map("{:.2f}".format), ""]
            interval = [f"{low:.1f}..{high:.1f}" for low, high in zip(summary["low"], summary["high"], strict=True)]
            table.loc[len(table)] = ["95 % of mean", *interval, ""]
        return table.to_string(index=False)

    def as_json(self) -> dict[str, Any]:
        """Give everything as plain numbers, None for NaN.

        {"convention", "cases": [{"case", metrics, "by_generation", "by_diameter"}], "summary": {metric: {mean, ...}},
        "empty": [case], "left_out": {case: why}}.
        """
        cases = [
            row | {name: table.to_dict("records") for name, table in self.groups[row["case"]].items()}
            for row in self.scores.to_dict("records")
        ]
        summary = self.summary().to_dict("index")
        more = {"empty": self.empty, "left_out": self.faults}
        return _without_nan({"convention": self.convention, "cases": cases, "summary": summary, **more})

    def as_csv(self) -> str:
        """Write one row a case, to four decimals, the convention last."""
        return self.scores.assign(convention=self.convention).to_csv(index=False, float_format="%.4f")

    def as_latex(self) -> str:
        """Write EXACT'09's table (LaTeX package booktabs): a row a case, then mean, standard deviation and quartiles.

        Raises `InputError`: the convention is another.
        """
        if self.convention != "exact09":
            raise InputError(f"convention {self.convention!r} has no LaTeX table: it is EXACT'09's, choose exact09")
        cases = self.scores.set_index("case")[list(COLUMNS)]
        rows = {"Mean": cases.mean(), "Std. dev.": cases.std().fillna(0)}
        quartiles = {"Min.": 0, "1st quartile": 0.25, "Median": 0.5, "3rd quartile": 0.75, "Max.": 1}
        rows |= {name: cases.quantile(share) for name, share in quartiles.items()}
        table = pd.concat([cases, pd.DataFrame(rows).T]).rename(columns=COLUMNS)
        text = table.map(lambda value: f"{value:.0f}" if value == int(value) else f"{value:.1f}")
        text = text.rename_axis("Case").reset_index()
        return text.to_latex(index=False, escape=True, column_format="l" + "r" * len(COLUMNS))


def _without_nan(value: Any) -> Any:
    """Replace NumPy's numbers by plain ones, and NaN by None: JSON knows neither."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


# ---------------------------------------------------------------------------------------------------------------- cases


def case_name(path: Path) -> str:
    """Name a case by its file or folder, without the image's suffix and a final _airway."""
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)].removesuffix("_airway")


def find_cases(folder: Path) -> dict[str, Path]:
    """Find a folder's mask files by case: FOLDER/CASE.nii.gz (or another image), and FOLDER/CASE/airway.nii.gz.

    Raises `InputError`: there is none, or two of one case.
    """
    found = [path for path in sorted(folder.iterdir()) if path.is_file()] + sorted(folder.glob("*/airway.*"))
    found = [path for path in found if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")]
    if not found:
        raise InputError(f"{folder}: no masks in it; CASE.nii.gz or CASE/airway.nii.gz are needed")
    cases: dict[str, Path] = {}
    for path in found:
        case = path.parent.name if path.parent != folder else case_name(path)
        if case in cases:
            raise InputError(f"{folder}: two masks of case {case}: {cases[case].name} and {path.name}")
        cases[case] = path
    return cases


def match_cases(prediction: Path, reference: Path, subset: bool = False) -> dict[str, tuple[Path, Path]]:
    """Pair two files, or the files of two folders by case; with `subset`, the references may hold more cases.

    Raises `InputError`: one does not exist, only one is a folder, or cases that only one of them holds (named).
    """
    for path in (prediction, reference):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    if prediction.is_dir() != reference.is_dir():
        raise InputError(f"{prediction} and {reference}: give two mask files, or two folders of them")
    if not prediction.is_dir():
        return {case_name(prediction): (prediction, reference)}
    predictions, references = find_cases(prediction), find_cases(reference)
    faults = [
        f"{folder} lacks {', '.join(sorted(lacking))}"
        for folder, lacking in (
            (prediction, set() if subset else references.keys() - predictions.keys()),
            (reference, predictions.keys() - references.keys()),
        )
        if lacking
    ]
    if faults:
        raise InputError(f"the cases do not match: {'; '.join(faults)}")
    return {case: (predictions[case], references[case]) for case in predictions}


# -------------------------------------------------------------------------------------------------------------- scoring


def score_case(
    prediction: Volume,
    reference: Volume,
    convention: str = "paper",
    truth: pd.DataFrame | None = None,
    branches: Volume | None = None,
) -> tuple[dict[str, float], dict[str, pd.DataFrame]]:
    """Score a mask (`scores.evaluate`), and make its tables "by_generation" and "by_diameter".

    truth: a phantom's own tree, on a grid whose origin is 0. branches: given labels of the reference's branches, 0
    outside, for the scores; the tables take the parsed branches.

    Raises `InputError`: they are not on one grid, the reference is empty, or the given branches do not fit
    (`Reference.with_branches`).
    """
    for name, volume in (("prediction", prediction), ("branches", branches)):
        if volume is not None and not volume.same_grid(reference):
            raise InputError(f"{name} {volume!r} and reference {reference!r} are not on one grid")
    spacing, given = reference.spacing, branches.array if branches else None
    scores, scored, part = evaluate_branches(prediction.array, reference.array, spacing, convention, given)
    if given is not None:
        scored = parse_reference(reference.array, spacing, convention).score(part)
    if truth is not None:
        found, scored = tree_scores(part, true_reference(truth, part.shape, spacing))
        scores |= {f"{name}_truth": value for name, value in found.items()}
    return scores, {"by_generation": by_generation(scored), "by_diameter": by_diameter(scored)}


def true_tree(reference: str | Path) -> pd.DataFrame | None:
    """Read the tree.csv beside a phantom's mask; None if there is none with a phantom's columns."""
    path = Path(reference).parent / "tree.csv"
    if not path.is_file() or not Path(reference).name.startswith("airway."):
        return None
    try:
        tree = pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path}: not a readable table ({error}); a phantom's tree is expected there") from error
    return tree if TRUTH_COLUMNS.issubset(tree.columns) else None  # what `airwaylib tree` writes lacks radius_start


Scored = tuple[Volume, dict[str, float], dict[str, pd.DataFrame]]  # prediction, and what `score_case` gives of it


def score_cases(
    cases: Iterable[str],
    score: Callable[[str], Scored],
    convention: str,
    progress: Callable[[Any], Any] = iter,
) -> Evaluation:
    """Score cases one by one; a case whose `score` raises `InputError` is noted in `faults`, and the others follow.

    progress: wraps the iteration over the cases, such as `tqdm`.

    Raises `InputError`: no case can be scored.
    """
    evaluation, rows = Evaluation(convention), []
    for case in progress(list(cases)):
        try:
            prediction, scores, groups = score(case)
        except InputError as error:
            evaluation.faults[case] = str(error)
            continue
        rows.append({"case": case, **scores})
        evaluation.groups[case] = groups
        if not prediction.array.any():
            evaluation.empty.append(case)
    if not rows:
        raise InputError("; ".join(f"{case}: {why}" for case, why in evaluation.faults.items()))
    evaluation.scores = pd.DataFrame(rows)
    return evaluation


def evaluate_files(
    prediction: str | Path,
    reference: str | Path,
    convention: str = "paper",
    branches: str | Path | None = None,
    subset: bool = False,
    progress: Callable[[Any], Any] = iter,
) -> Evaluation:
    """Score mask files (or folders of them, matched by case) against reference files; see `score_cases`.

    branches: labels of the references' branches, a file or a folder as these are (convention atm26); by default the
    references are parsed. subset: references may hold more cases than predictions.

    Raises `InputError`: cases that do not match, an unknown convention, or no case that can be scored.
    """
    if not convention_by_name(convention).given_branches and branches:
        raise InputError(f"convention {convention!r} parses the branches itself; given ones need convention atm26")
    cases = match_cases(Path(prediction), Path(reference), subset)
    labels = match_cases(Path(prediction), Path(branches), subset) if branches else {}

    def score(case: str) -> Scored:
        paths = cases[case]
        try:
            with ThreadPoolExecutor(1) as reader:
                reading = reader.submit(read_mask, paths[0], may_be_empty=True)
                label = read_mask(paths[1])
                parse_reference(label.array, label.spacing, convention)  # kept; meanwhile the prediction is read
                mask = reading.result()
            given = read_volume(labels[case][1]) if labels else None
            return mask, *score_case(mask, label, convention, true_tree(paths[1]), given)
        except InputError as error:
            if any(str(path) in str(error) for path in paths):
                raise
            raise InputError(f"{paths[0]} against {paths[1]}: {error}") from error

    evaluation = score_cases(cases, score, convention, progress)
    if Path(reference).is_dir():
        evaluation.unmatched = sorted(find_cases(Path(reference)).keys() - cases.keys())
    return evaluation
