"""Copy a finished study to results/reference/STUDY, which is committed: tables, figures and executed notebooks.

python -m airwaystudy.plan.reference quick
"""

import json
import sys
from pathlib import Path
from typing import Any

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaystudy import home

KEPT = {"tables": (".csv", ".tex"), "figures": (".png", ".svg"), "gradients": (".csv",)}  # suffixes, by folder
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
    written = []
    for path in [*files, *texts]:
        content = texts[path].encode() if path in texts else path.read_bytes()
        written.append(target / path.relative_to(source))
        with atomic_path(written[-1]) as temporary:
            temporary.write_bytes(content)
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


def main(study: str) -> None:
    """Copy a study and print what was written and what a former reference left there."""
    written = copy_reference(study)
    folder = home.HOME / "results/reference" / study
    left = sorted(path for path in folder.rglob("*") if path.is_file() and path not in written)
    print(f"{folder}: {len(written)} files")
    if left:
        print("not of this study: " + ", ".join(str(path.relative_to(folder)) for path in left))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2] or ["quick"])
    except InputError as error:
        sys.exit(f"airwaylib: {error}")
