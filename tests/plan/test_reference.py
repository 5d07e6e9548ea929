"""The committed reference: what is copied of a study, and that its notebooks can be shown on the web."""

import json
import shutil
from pathlib import Path

import pytest

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.plan import presets, reference

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


@pytest.fixture
def planned(study, monkeypatch):
    """A study by a protocol of two seeds, a warm network and an arm of two stages each; the second seed is cut off."""
    arm = {"after": "warm", "stages": {"first": {}, "last": {}}}
    variants = {"warm": {"test_cases": []}, "arm": arm}
    preset = {"phantoms": {"train": "0", "test": "8"}, "seeds": [0, 1], "protocol": 1, "variants": variants}
    path = home.HOME / "study.yaml"
    path.write_text(json.dumps({"small": preset}))
    for function in (presets.read_preset, presets.find_preset):
        monkeypatch.setattr(function, "__defaults__", (path,))
    for run in ("warm_0", "arm_0_first", "arm_0", "warm_1", "arm_1_first"):
        for name in ("config.json", "summary.json", "trade_off.csv", "checkpoint.safetensors"):
            home.write_json(study / "runs" / run / name, run)
    (study / "runs/arm_0/scores.csv").write_text("td\n")
    (study / "runs/arm_1_first/summary.json").unlink()  # at work
    return study


def test_small_tables_of_the_runs_that_ended_are_copied(planned, capsys):
    reference.main("small", "--runs")
    target = planned.parent / "reference/small/runs"
    kept = {path.name: sorted(file.name for file in path.iterdir()) for path in target.iterdir()}
    tables = ["config.json", "summary.json", "trade_off.csv"]
    assert kept == {"warm_0": tables, "arm_0_first": tables, "arm_0": sorted([*tables, "scores.csv"]), "warm_1": tables}
    assert capsys.readouterr().out == "4 runs, 13 files\n"


def test_whole_seeds_are_restored_where_nothing_is(planned):
    reference.copy_runs("small")
    assert reference.restore_runs("small") == []  # both seeds have begun here
    shutil.rmtree(planned / "runs")
    reference.restore_runs("small")
    assert sorted(path.name for path in (planned / "runs").iterdir()) == ["arm_0", "arm_0_first", "warm_0"]
    assert (planned / "runs/arm_0/scores.csv").read_text() == "td\n"
