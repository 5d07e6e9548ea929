"""Copy a study to results/reference/STUDY, which is committed: tables, figures, executed notebooks, runs' small tables.

python -m airwaystudy.plan.reference quick            # a finished study
python -m airwaystudy.plan.reference decide --runs    # the runs' tables alone, as runs end
python -m airwaystudy.plan.reference decide --restore # those back to results/STUDY, to go on elsewhere
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaystudy import home
from airwaystudy.plan.presets import find_preset, read_preset
from airwaystudy.training.config import Recipe

KEPT = {"tables": (".csv", ".tex"), "figures": (".png", ".svg"), "gradients": (".csv",)}  # suffixes, by folder
RUN_FILES = ("config.json", "provenance.json", "summary.json", "metrics.csv")  # kept of every run of a protocol
RUN_FILES += ("scores.csv", "scores_by_diameter.csv", "scores_by_generation.csv", "trade_off.csv")
MOST_NOTEBOOK = 3_000_000  # bytes of an executed notebook: larger ones are not shown on the web
MOST_HTML = 200_000  # bytes of one HTML output; larger ones are interactive figures


def copy_reference(study: str) -> list[Path]:
    """Copy results/<study>/ to results/reference/<study>/ and return the files written.

    Of the trained runs' notebooks, only the first is copied. Files of a former reference that the study no longer
    has stay; `main` lists them.

    Raises `InputError`: the study has no tables; a notebook failed, or is over 3 MB without its interactive figures.
    """
    source, target = home.results(study), home.HOME / "results/reference" / study
    if not list(source.glob("tables/*.csv")):
        raise InputError(f"{source}: no finished study (no tables); make it with airwaylib reproduce {study}")
    notebooks = sorted(source.glob("notebooks/*.ipynb"))
    trained = [path for path in notebooks if path.name.startswith("02_train")]
    texts = {
        path: slim_notebook(path) for path in notebooks if path not in trained[1:]
    }  # all are fit, or none is copied
    files = [
        path for folder, kept in KEPT.items() for path in sorted(source.glob(f"{folder}/*")) if path.suffix in kept
    ]
    files = {path: path.read_bytes() for path in files} | {path: text.encode() for path, text in texts.items()}
    return [*copy_files(files, source, target), *copy_runs(study)]


def copy_files(files: Mapping[Path, bytes], source: Path, target: Path) -> list[Path]:
    """Write contents under `target` at the places that their files have under `source`; return the files written."""
    written = []
    for path, content in files.items():
        written.append(target / path.relative_to(source))
        with atomic_path(written[-1]) as temporary:
            temporary.write_bytes(content)
    return written


def copy_runs(study: str) -> list[Path]:
    """Copy the small tables of a study's finished runs to its reference, if the study keeps to a protocol."""
    preset = find_preset(study)
    if preset is None or preset.protocol is None:
        return []
    runs = [stage.run for settings in preset.settings_by_run().values() for stage in Recipe(**settings).runs()]
    return copy_tables(runs, home.results(study), home.HOME / "results/reference" / study)


def copy_tables(runs: Iterable[str], source: Path, target: Path) -> list[Path]:
    """Copy `RUN_FILES` of those runs in SOURCE/runs that have ended; paths of this machine become relative."""
    ended = [folder for run in runs if (folder := source / "runs" / run / "summary.json").is_file()]
    files = [path for folder in ended for name in RUN_FILES if (path := folder.parent / name).is_file()]
    return copy_files({path: path.read_bytes() for path in files}, source, target)


def restore_runs(study: str) -> list[Path]:
    """Copy the runs' tables of a reference back to results/STUDY, seed by seed: only seeds of which all runs ended.

    What is trained further, such as a warm network's checkpoint, is not in a reference. So a seed that was cut off
    begins anew.

    Raises
    ------
    InputError
        The study is no preset.
    """
    preset = read_preset(study)
    source, target = home.HOME / "results/reference" / study, home.results(study)
    written = []
    for seed in preset.seeds:
        recipes = {run: Recipe(**s).runs() for run, s in preset.settings_by_run().items() if s["seed"] == seed}
        there = all((source / Path(preset.result(run)).relative_to(f"results/{study}")).is_file() for run in recipes)
        free = not any((target / "runs" / run).exists() for run in recipes)
        if there and free:
            written += copy_tables([stage.run for runs in recipes.values() for stage in runs], source, target)
    return written


def slim_notebook(path: Path) -> str:
    """Return an executed notebook's text without interactive figures, which the web does not show.

    Stills stay. Paths of this machine become relative to the project.
    """
    notebook = home.read_json(path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            if any(output["output_type"] == "error" for output in cell["outputs"]):
                raise InputError(f"{path}: a cell failed; make the notebook again")
            cell["outputs"] = [slim for output in cell["outputs"] if (slim := slim_output(output)) is not None]
    notebook["metadata"].pop("widgets", None)
    text = json.dumps(notebook, indent=1, ensure_ascii=False).replace(f"{home.HOME}/", "") + "\n"
    if (size := len(text.encode())) > MOST_NOTEBOOK:
        raise InputError(
            f"{path}: {size / 1e6:.1f} MB, more than {MOST_NOTEBOOK / 1e6:.0f}; show smaller or fewer figures"
        )
    return text


def slim_output(output: dict[str, Any]) -> dict[str, Any] | None:
    """Return a cell's output without plotly's data and large HTML; None if nothing is left of it."""
    if "data" not in output:
        return output
    data = {
        mime: value
        for mime, value in output["data"].items()
        if not mime.startswith("application/vnd.plotly")
        and not (mime == "text/html" and len("".join(value).encode()) > MOST_HTML)
    }
    return output | {"data": data} if data else None


def main(study: str, what: str = "") -> None:
    """Copy a study and print what was written and what a former reference left there."""
    if what in ("--runs", "--restore"):
        written = copy_runs(study) if what == "--runs" else restore_runs(study)
        print(f"{len({path.parent for path in written})} runs, {len(written)} files")
        return
    written = copy_reference(study)
    folder = home.HOME / "results/reference" / study
    left = sorted(path for path in folder.rglob("*") if path.is_file() and path not in written)
    print(f"{folder}: {len(written)} files")
    if left:
        print("not of this study: " + ", ".join(str(path.relative_to(folder)) for path in left))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3] or ["quick"])
    except InputError as error:
        sys.exit(f"airwaylib: {error}")
