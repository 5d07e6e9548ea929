"""The committed reference: what is copied of a study, and that its notebooks can be shown on the web."""

import json
from pathlib import Path

import pytest

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.plan import reference

ROOT = Path(__file__).resolve().parents[2]
PLOTLY = "application/vnd.plotly.v1+json"


def notebook(*outputs):
    cells = [{"cell_type": "markdown", "source": "text"}, {"cell_type": "code", "outputs": list(outputs), "source": ""}]
    return {"cells": cells, "metadata": {"widgets": {"state": "large"}, "papermill": {}}, "nbformat": 4}


def shown(**data):
    return {"output_type": "display_data", "data": data, "metadata": {}}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "HOME", tmp_path)
    files = {"tables/scores.csv": "a\n", "tables/exact09.tex": "b", "figures/tree.png": "c", "figures/tree.html": "d"}
    files |= {"gradients/layers.csv": "e\n", "gradients/maps.zip": "f", "runs/r/scores.csv": "g", "report.html": "h"}
    files |= {"notebooks/01_x.ipynb": json.dumps(notebook()), "notebooks/01_x.log": "i"}
    files |= {f"notebooks/02_train_{run}.ipynb": json.dumps(notebook()) for run in ("a_0", "a_1", "b_0")}
    for name, text in files.items():
        path = tmp_path / "results/small" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "results/small"


def test_tables_figures_and_one_notebook_of_training_are_copied(study, capsys):
    (study.parent / "reference/small/tables").mkdir(parents=True)
    (study.parent / "reference/small/tables/former.csv").write_text("old\n")
    reference.main("small")
    target = study.parent / "reference/small"
    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert names == [
        "figures/tree.png", "gradients/layers.csv", "notebooks/01_x.ipynb", "notebooks/02_train_a_0.ipynb",
        "tables/exact09.tex", "tables/former.csv", "tables/scores.csv",
    ]  # fmt: skip
    assert (target / "tables/scores.csv").read_text() == "a\n"
    assert capsys.readouterr().out == f"{target}: 6 files\nnot of this study: tables/former.csv\n"


def test_interactive_figures_go_and_stills_stay(study):
    path = study / "notebooks/01_x.ipynb"
    page, table = ["<div>", "x" * 200_000], "<table></table>"
    stream = {"output_type": "stream", "name": "stdout", "text": f"{home.HOME}/results/small/tables\n"}
    outputs = [stream, shown(**{PLOTLY: {}, "image/png": "still"}), shown(**{"text/html": page}), shown(**{PLOTLY: {}})]
    outputs += [shown(**{"text/html": table, "text/plain": "t"})]
    path.write_text(json.dumps(notebook(*outputs)))
    slim = json.loads(reference.slim_notebook(path))
    left = slim["cells"][1]["outputs"]
    assert left[0]["text"] == "results/small/tables\n"
    assert [output["data"] for output in left[1:]] == [{"image/png": "still"}, {"text/html": table, "text/plain": "t"}]
    assert "widgets" not in slim["metadata"]


def test_a_failed_or_large_notebook_and_an_unfinished_study_are_refused(study):
    path = study / "notebooks/01_x.ipynb"
    path.write_text(json.dumps(notebook({"output_type": "error", "ename": "InputError"})))
    with pytest.raises(InputError, match=r"01_x\.ipynb: a cell failed"):
        reference.copy_reference("small")
    path.write_text(json.dumps(notebook(shown(**{"image/png": "x" * 3_100_000}))))
    with pytest.raises(InputError, match=r"01_x\.ipynb: 3\.1 MB, more than 3; show smaller"):
        reference.copy_reference("small")
    assert not (study.parent / "reference").exists()  # all or nothing
    with pytest.raises(InputError, match="results/none: no finished study"):
        reference.copy_reference("none")


def test_committed_notebooks_can_be_shown():
    for path in ROOT.glob("results/reference/*/notebooks/*.ipynb"):
        text = path.read_text()
        assert len(text.encode()) <= reference.MOST_NOTEBOOK and PLOTLY not in text, path
