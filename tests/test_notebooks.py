"""Every notebook runs by papermill with small parameters, and its results are right."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import papermill as pm
import pytest
import torch
from synthetic_maps import write_study
from synthetic_study import write_runs

from airwaylib.images.volume import read_mask, read_volume
from airwaylib.networks.checkpoints import CheckpointInfo, build_network, save_checkpoint
from airwaystudy import home as study
from airwaystudy.analysis.contrasts import write_tables
from airwaystudy.claims.measures import VERDICTS
from airwaystudy.phantoms.case import make_phantom, write_phantom
from airwaystudy.plan import presets
from airwaystudy.plan.runs import collect
from airwaystudy.training.held_out import CURVE

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SMALL = {
    "train_cases": ["mini_0000"],
    "validation_cases": [],
    "test_cases": ["mini_0001"],
    "width": 1,
    "crop": 32,
    "crops_per_case": 4,
    "epochs": 1,
}


VTU_FORK = """<VTKFile type="UnstructuredGrid" version="0.1" byte_order="LittleEndian"><UnstructuredGrid>
<Piece NumberOfPoints="4" NumberOfCells="3">
<PointData><DataArray type="Float64" Name="radius" format="ascii">8 8 5 5</DataArray></PointData>
<Points><DataArray type="Float64" NumberOfComponents="3" format="ascii">
0 0 90  0 0 0  -30 0 -30  30 0 -30</DataArray></Points>
<Cells><DataArray type="Int64" Name="connectivity" format="ascii">0 1 1 2 1 3</DataArray>
<DataArray type="Int64" Name="offsets" format="ascii">2 4 6</DataArray>
<DataArray type="Int64" Name="types" format="ascii">3 3 3</DataArray></Cells>
</Piece></UnstructuredGrid></VTKFile>"""


def papermill(notebook, home, **parameters):
    """Run a notebook in a kernel of its own, results under `home`; returns its error, if any, and the executed copy."""
    executed = home / f"{Path(notebook).stem}.ipynb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRWAYLIB_HOME", str(home))
        try:
            pm.execute_notebook(NOTEBOOKS / notebook, executed, parameters, cwd=home, progress_bar=False)
        except pm.PapermillExecutionError as error:
            return str(error), executed
    return None, executed


@pytest.fixture(scope="module")
def home(tmp_path_factory, phantoms):
    """A project's root with two runs trained by 02_train."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(phantoms, home / "data/phantoms")
    # Random weights take most voxels for airway, which are slow to thin and to draw: a lower bias takes few.
    torch.manual_seed(0)
    final = build_network("wingsnet", width=1, supervision="final")
    with torch.no_grad():
        final.dc6.tap.bias -= 1
    info = CheckpointInfo("wingsnet", {"width": 1, "supervision": "final"}, 32, 1.0)
    save_checkpoint(home / "start.safetensors", final, info)
    for run, choice in {
        "final_dice": {"supervision": "final", "loss": "dice", "snapshots": [0, 1], "start": "start.safetensors"},
        "both_general_union": {"supervision": "both", "loss": "general_union", "snapshots": [0, 1]},
    }.items():
        error, _ = papermill("02_train.ipynb", home, study="quick", run=run, **SMALL, **choice)
        assert error is None, error
    return home


def pictures(executed):
    """How many PNG pictures the executed notebook holds."""
    cells = json.loads(executed.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_00_idea(tmp_path):
    error, executed = papermill("00_idea.ipynb", tmp_path, study="toy", radius=1.5, layers=6, ratio=1)
    assert error is None, error
    results = tmp_path / "results/toy"
    eroded = pd.read_csv(results / "tables/tube_erosion.csv").pivot(index="layers", columns="radius", values="eroded")
    assert list(eroded.columns) == [0.75, 1.125, 1.5, 2.25, 3] and len(eroded) == 6
    assert (eroded[0.75] >= eroded[3]).all() and eroded[0.75].iloc[-1] == 1
    profiles = pd.read_csv(results / "tables/tube_profiles.csv")
    assert profiles.groupby("layers")["position"].agg(["min", "max"]).to_numpy().tolist() == [[-10, 10]] * 5
    axis = profiles[profiles["position"] == 0].set_index("layers")["value"]
    assert axis[1] == pytest.approx(
        (2 * math.pi * 1.5**2 - 9) / 9, abs=0.05
    )  # a disc within 3 x 3 voxels, but for a rim
    reach = pd.read_csv(results / "tables/tube_reach.csv").pivot(index="layers", columns="ratio", values="reach")
    # The law: a tube of radius 1.5 under R = 1 keeps its axis through 1.5^2 / (4/3 ln 2) = 2.4 layers.
    assert (reach[1].loc[:2] > 0).all() and (reach[1].loc[3:] == 0).all()
    assert (reach[4].loc[:2] > 1.5).all()  # dilated
    assert "R = 1, 6 layers: lost; critical radius 2.35 by the law" in executed.read_text()
    assert "the airway's sign on its axis is lost after 3 layers" in executed.read_text()
    for name in ("tube_erosion", "tube_reach"):
        assert (results / f"figures/{name}.png").stat().st_size > 10_000 and (results / f"figures/{name}.svg").exists()
    page = (results / "figures/tube.html").read_text()
    assert page.count('"method":"skip"') == 8 + 6 + 19 and "plotly_sliderchange" in page
    assert pictures(executed) == 2
    assert executed.stat().st_size < 3e6


def test_phantoms(home):
    """With a real CT and a centreline given: a phantom stands in for the one, a fork of three lines for the other."""
    case = write_phantom(make_phantom(7, "mini"), home / "elsewhere")
    line = home / "fork.vtu"
    line.write_text(VTU_FORK)
    real = {"cts": [str(case / "ct.nii.gz")], "airways": [str(case / "airway.nii.gz")], "centreline": str(line)}
    real["masks"] = real["airways"]
    error, executed = papermill("appendix/phantoms.ipynb", home, seeds=[0, 1], study="calibrated", **real)
    assert error is None, error
    tables, figures = (home / "results/calibrated" / name for name in ("tables", "figures"))
    deviation = pd.read_csv(tables / "deviation.csv")
    assert (deviation["cases"] == 2).all()
    angle = deviation[deviation["property"] == "angle_deg"].set_index("source")
    assert set(angle.index) == {"Raabe et al. 1976, LF-53, human cast", "real centreline", "real masks"}
    assert angle.loc["real centreline", "reference_low"] == pytest.approx(45)
    noise = deviation[deviation["property"] == "noise_hu"]
    assert list(noise["source"]) == ["real CTs (1)"]
    assert noise["difference"].abs().item() < 40
    generations = pd.read_csv(tables / "generations.csv").groupby("tree")["branches"].sum()
    trees = [len(pd.read_csv(home / f"data/phantoms/raw/mini_000{seed}/tree.csv")) for seed in (0, 1)]
    assert pd.read_csv(tables / "trees.csv")["branches"].tolist()[:3] == [*trees, 3]
    assert generations["real centreline"] == 3
    for name in ("phantom", "morphometry", "murray", "histograms", "spectra", "walls"):
        assert (figures / f"{name}.png").stat().st_size > 10_000
        assert (figures / f"{name}.svg").exists()
    assert pictures(executed) == 6


@pytest.mark.slow
def test_phantoms_without_real_data_says_so(home):
    error, executed = papermill("appendix/phantoms.ipynb", home, seeds=[0], study="published")
    assert error is None, error
    assert "no real data for: cts, masks, centreline (published values only)" in executed.read_text()
    sources = pd.read_csv(home / "results/published/tables/deviation.csv")["source"]
    assert not sources.str.contains("real").any()
    assert sources.str.contains("Weibel").any()


def test_phantoms_refuses_a_ct_without_its_mask(tmp_path):
    error, _ = papermill("appendix/phantoms.ipynb", tmp_path, cts=["ct.nii.gz"])
    assert "1 cts and 0 airways: each CT needs its airway mask" in error


def test_01_gradient_erosion(home):
    """Two finished runs, measured and not trained."""
    for run in ("final_dice", "both_general_union"):
        copy = home / f"results/eroded/runs/{run}_0"
        shutil.copytree(home / f"results/quick/runs/{run}", copy)
        config = study.read_json(copy / "config.json") | {"study": "eroded", "run": copy.name}
        study.write_json(copy / "config.json", config)
    shutil.copy(NOTEBOOKS.parent / "claims.yaml", home)
    folder = home / "results/eroded/gradients"
    error, executed = papermill("01_gradient_erosion.ipynb", home, study="eroded", view=32)
    assert error is None, error
    tables = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
    assert set(tables) == {
        *("layers", "bins", "swaps", "branches", "probes", "ratios"),
        *("critical_radius", "missed_voxel", "law_by_layer", "measures"),
    }
    rows = tables["layers"].groupby("run").size()  # by epoch, crop and layer
    assert rows.to_dict() == {"both_general_union_0": 2 * 2 * 18, "final_dice_0": 2 * 2 * 18}
    assert len(tables["swaps"]) == 2 * 2 * 18 * (2 * 2 + 2)  # two losses; two groups in one run, one in the other
    law = tables["critical_radius"]
    assert (law["law"] - law["simulation"]).abs().max() < 0.5
    measures = tables["measures"].set_index("claim")
    assert measures.loc["erosion_accumulates", ["seed", "networks"]].tolist() == [0, 1]
    assert measures.loc["a_small_ratio_erodes", "networks"] == 2
    powers = tables["missed_voxel"].set_index("loss")["exponent"]
    assert powers.to_dict() == pytest.approx({"dice": 1, "general_union": 0.7, "weighted_bce": 0}, abs=0.03)
    assert (tables["ratios"].query("loss == 'dice'")["ratio"] >= 1).all()  # 2 / DSC - 1
    assert {path.stem for path in folder.glob("*.zarr")} == {"both_general_union_0", "final_dice_0"}
    assert len(list((home / "results/eroded/figures").glob("*.svg"))) == pictures(executed) == 10


def test_01_gradient_erosion_refuses_a_misspelt_study_before_any_work(home):
    error, _ = papermill("01_gradient_erosion.ipynb", home, study="quik")
    assert "results/quik: no such study; there are " in error
    assert "; did you mean quick?" in error
    assert not (home / "results/quik").exists()


def test_02_train(home):
    folder = home / "results/quick/runs/both_general_union"
    assert study.read_json(folder / "summary.json")["epoch"] == 1
    assert study.read_json(folder / "config.json")["supervision"] == "both"
    scores = pd.read_csv(folder / "scores.csv")
    assert list(scores["case"]) == ["mini_0001"]
    assert scores[["td", "precision", "dsc", "tpr"]].stack().between(0, 100).all()
    assert read_mask_or_empty(folder / "predictions/mini_0001.nii.gz").shape == (128, 128, 128)
    assert pictures(home / "02_train.ipynb") == 3  # crops, curves, prediction


def read_mask_or_empty(path):
    """Voxels of a mask file; a network of one epoch may find nothing."""
    return read_volume(path).array


ABLATED = {
    "final_dice": {"supervision": "final", "loss": "dice"},
    "both_dice": {"supervision": "both", "loss": "dice"},
    "both_general_union": {"supervision": "both", "loss": "general_union"},
    "longer": {"supervision": "final", "loss": "general_union", "epochs": 9},
}


def ablated_scores(variant, seed, case):
    """Group supervision finds 8, 10 and 12 points of tree length more, by seed; the rest is the fixture's."""
    gain = 8 + 2 * seed if variant.startswith("both") else 0
    return {"td": 60.0 + gain + (case == "test_b"), "td_truth": 50.0 + gain}


def test_03_results(tmp_path):
    results = write_runs(tmp_path, ABLATED, score=ablated_scores)
    shutil.copy(ROOT / "claims.yaml", tmp_path)
    (results / "runs/deep_dice_0").mkdir()
    (results / "runs/deep_dice_0/failed.txt").write_text("out of memory")
    planned = [
        {"variant": "decoder_dice", "supervision": "decoder"},
        {"variant": "final_dice", **ABLATED["final_dice"]},
    ]
    error, executed = papermill("03_results.ipynb", tmp_path, study="made_up", planned=planned, compared=[], curves=[])
    assert error is None, error
    tables = {path.stem: pd.read_csv(path) for path in (results / "tables").glob("*.csv")}
    assert set(tables) == {
        *("runs", "coverage", "ablation", "by_seed", "effects", "not_compared"),
        *("ablation_by_diameter", "ablation_by_generation", "scores_by_case", "claims"),
    }
    covered = tables["coverage"].set_index("variant")
    assert covered["status"].to_dict() == dict.fromkeys(ABLATED, "done") | {"decoder_dice": "not run"} | {
        "deep_dice": "failed"
    }
    assert set(covered.query("planned == 'yes'").index) == {"decoder_dice", "final_dice"}
    assert len(tables["runs"]) == 13 and len(tables["by_seed"]) == 12
    means = tables["ablation"].set_index("variant")["td_mean"]
    assert means["both_dice"] == pytest.approx(70.5) and means["final_dice"] == pytest.approx(60.5)
    td = tables["effects"].query("metric == 'td'").set_index(["from_variant", "to_variant"])
    assert set(td.index) == {("final_dice", "both_dice"), ("both_dice", "both_general_union")}
    row = td.loc["final_dice", "both_dice"]
    assert (row["difference"], row["seeds"], row["cases"]) == (10, 3, 2)
    assert row["low"] == pytest.approx(10 - 4.3027 * 2 / 3**0.5, abs=1e-3)
    assert set(tables["not_compared"]["from_variant"]) == {"final_dice", "longer"}  # by more steps than the others
    assert tables["not_compared"]["reason"].str.contains("steps: ").all()
    assert all((tables[name]["convention"] == "paper").all() for name in ("ablation", "effects", "by_seed"))
    assert {path.stem for path in (results / "figures").glob("*.svg")} == {
        *("effects", "td_against_precision", "ablation_by_diameter")
    }
    assert pictures(executed) == 3
    text = executed.read_text()
    assert "deep_dice_0: failed (out of memory)" in text
    # Seeds of both_dice: 60 + 8, 10 and 12 points, half a point for the second case.
    assert "most complete: both dice, tree length 70 % (68 to 72), precision 90 % (90 to 90)" in text
    low, high = row["low"], row["high"]
    assert f"td +10.0 points ({low:.1f} to {high:.1f}), 3 seeds, 2 cases: more" in text
    assert set(tables["claims"]["verdict"]) <= set(VERDICTS)
    assert "held-out cases (synthetic)" in (results / "figures/effects.svg").read_text()


DECIDING = {"dice": {"loss": "dice"}, "union": {"loss": "general_union"}}


@pytest.mark.slow
def test_03_and_report_say_what_a_study_decides_and_whether_it_replicates(tmp_path, monkeypatch):
    """General Union finds 1 to 3 points more in the reference's seeds, and 2 on this machine: one of one replicates."""
    monkeypatch.setattr(study, "HOME", tmp_path)
    contrast = {"name": "loss", "arm": "union", "base": "dice", "factor": "loss", "primary": True}
    preset = {"phantoms": {"train": "0", "test": "8-9"}, "seeds": [0, 1, 2], "variants": DECIDING, "protocol": 1}
    preset |= {"primary": "td_80", "contrasts": [contrast]}
    again = preset | {"seeds": [7], "reference": "known"}
    study.write_json(tmp_path / "study.yaml", {"known": preset, "again": again})  # JSON is YAML
    shutil.copy(ROOT / "claims.yaml", tmp_path)
    gains = {0: 1.0, 1: 2.0, 2: 3.0, 7: 2.0}
    for name, seeds in (("known", [0, 1, 2]), ("again", [7])):
        folder = write_runs(tmp_path, DECIDING, seeds=seeds, cases=["mini_0008", "mini_0009"], name=name)
        for variant in DECIDING:
            for seed in seeds:
                td = 80.0 + (variant == "union") * gains[seed]
                table = pd.DataFrame({"case": ["mini_0008", "mini_0009"]} | {key: [td, td + 10] for key in CURVE})
                table = table.assign(logit=0, precision=90, precision_whole=90)
                study.write_csv(folder / f"runs/{variant}_{seed}/trade_off.csv", table)
    write_tables(collect("known"), presets.read_preset("known", tmp_path / "study.yaml"), [0, 1, 2])
    shutil.copytree(tmp_path / "results/known", tmp_path / "results/reference/known")
    error, executed = papermill("03_results.ipynb", tmp_path, study="again", compared=[], curves=[])
    assert error is None, error
    text = executed.read_text()
    assert "loss: +2.00 points: open (one seed or one case: no test)" in text
    assert "replicates 1 of 1 contrasts of results/reference/known" in text
    results = tmp_path / "results/again"
    assert {f"figures/{stem}.svg" for stem in ("arms", "contrasts", "replication")} <= {
        path.relative_to(results).as_posix() for path in results.glob("figures/*.svg")
    }
    error, executed = papermill("report.ipynb", tmp_path, study="again")
    assert error is None, error
    text = executed.read_text()
    assert "This machine, another seed: **replicates 1 of 1 contrasts** of results/reference/known" in text
    assert "At 80 % precision, tree length of true branches: loss (union − dice) +2.0 points: **open**" in text
    assert "core-hours" in text


@pytest.mark.slow
def test_03_results_of_a_study_without_runs_says_so(tmp_path):
    error, _ = papermill("03_results.ipynb", tmp_path, study="made_up")
    assert "no such study, nor any other; train one first" in error
    assert not (tmp_path / "results").exists()


EXHIBITS = {
    *("architecture", "gradient_maps", "class_ratios", "scores_by_diameter"),
    *("trees", "predictions", "tree"),
}
TABLES_04 = {
    *("architecture", "architecture_groups", "gradient_maps", "class_ratios", "exact09", "published", "trees", "tree")
}


@pytest.fixture(scope="module")
def scored(home):
    """Tables of 03_results of the two runs, with probes in one of them."""
    results = home / "results/quick"
    shutil.copy(ROOT / "claims.yaml", home)
    shutil.copy(ROOT / "data/published.csv", home / "data")
    probe = {"epoch": 1, "step": 0, "layer": "ec1", "layer_ratio": 2.0, "ratio": 3.0, "index": 0.1}
    study.write_csv(results / "runs/final_dice/probes.csv", pd.DataFrame([probe | {"erosion": 0.1, "dilation": 0.2}]))
    error, executed = papermill("03_results.ipynb", home)
    assert error is None, error
    assert "tree length at 60 % precision: final dice" in executed.read_text()
    return results, {path.stem: pd.read_csv(path) for path in (results / "tables").glob("*.csv")}


def test_03_results_numbers_are_the_runs(scored, home):
    results, tables = scored
    runs = {name: pd.read_csv(results / f"runs/{name}/scores.csv") for name in ("final_dice", "both_general_union")}
    scores = tables["ablation"].set_index("variant")
    assert list(scores.index) == list(runs)
    assert (scores["convention"] == "paper").all() and scores["td_low"].isna().all()  # one seed has no interval
    assert tables["scores_by_case"].query("variant == 'final_dice'")["td"].tolist() == runs["final_dice"]["td"].tolist()
    at_half = tables["trade_off"].query("logit == 0").set_index("variant")
    for name, run in runs.items():
        assert scores.loc[name, "td_mean"] == pytest.approx(run["td"].mean(), abs=0.01)
        assert at_half.loc[name, "td"] == pytest.approx(run["td_truth"].item(), abs=0.01)
    tree = pd.read_csv(home / "data/phantoms/raw/mini_0001/tree.csv")
    by_diameter = tables["scores_by_diameter"].groupby("variant")["branches"].sum()
    assert by_diameter.tolist() == [len(tree)] * 2  # the phantom's own branches
    assert set(tables["td_at_precision"]["precision"]) == {60, 70, 80, 90}


@pytest.fixture(scope="module")
def exhibits(home, scored):
    """Results of 04_exhibits of the two runs, with gradient maps as 01 leaves them."""
    results, before = scored
    write_study(results / "gradients", size=24)
    error, executed = papermill("04_exhibits.ipynb", home)
    assert error is None, error
    tables = {path.stem: pd.read_csv(path) for path in (results / "tables").glob("*.csv")}
    return results, {name: table for name, table in tables.items() if name not in before}, executed


def test_04_exhibits_draws_and_tabulates_every_exhibit(exhibits):
    results, tables, executed = exhibits
    assert set(tables) == TABLES_04
    for name in EXHIBITS:
        assert (results / f"figures/{name}.png").stat().st_size > 5_000
        assert (results / f"figures/{name}.svg").exists()
    assert "plotly" in (results / "figures/tree.html").read_text()
    assert "mini" in (results / "tables/exact09.tex").read_text()
    assert pictures(executed) == len(EXHIBITS)


def test_04_exhibits_numbers_are_the_runs(exhibits):
    results, tables, _ = exhibits
    parameters = tables["architecture"]["parameters"].sum() + tables["architecture_groups"]["parameters"].sum()
    assert parameters == study.read_json(results / "runs/both_general_union/summary.json")["parameters"]
    assert tables["class_ratios"][["variant", "seed", "layer_ratio"]].values.tolist() == [["final_dice", 0, 2.0]]
    detected = tables["exact09"]["exact09_tree_length_detected"]
    ours, theirs = (tables["published"].query(f"whose == '{whose}'") for whose in ("ours", "published"))
    assert (ours["comparable"] == "with ours alone").all() and (theirs["comparable"] == "no: other data").all()
    assert len(theirs) == 5 and theirs["grade"].isin(["A", "B"]).all()
    paper, official = ours.iloc[:2], ours.iloc[2]
    scores = pd.read_csv(results / "tables/ablation.csv")
    assert (paper["method"].tolist(), paper["td"].tolist()) == (scores["variant"].tolist(), scores["td_mean"].tolist())
    assert (official["method"], official["convention"]) == ("both_general_union", "exact09")
    assert official["td"] == pytest.approx(detected.mean(), abs=1e-3) and pd.isna(paper["exact09_fpr"]).all()
    prediction = read_mask_or_empty(results / "runs/final_dice/predictions/mini_0001.nii.gz") > 0
    counts = tables["trees"].set_index("variant").loc["final_dice"]
    assert counts[["detected", "rim", "leaked"]].sum() <= prediction.sum()  # of its largest component


@pytest.mark.slow
def test_04_exhibits_without_maps_and_probes_says_so(home, scored, tmp_path):
    """The runs and their scores alone: what needs 01 or probes is left out, and the notebook says which."""
    for name in ("runs", "tables"):
        shutil.copytree(home / "results/quick" / name, tmp_path / "results/quick" / name)
    (tmp_path / "results/quick/runs/final_dice/probes.csv").unlink()
    (tmp_path / "data").symlink_to(home / "data")
    error, executed = papermill("04_exhibits.ipynb", tmp_path, compared=["final_dice"])
    assert error is None, error
    text = executed.read_text()
    assert "01_gradient_erosion was not run for this study" in text
    assert "no probes.csv" in text
    assert not (tmp_path / "results/quick/figures/gradient_maps.png").exists()


def test_04_exhibits_refuses_a_baseline_without_runs(home, scored):
    error, _ = papermill("04_exhibits.ipynb", home, baseline="deep_dice")
    assert "no finished run of variant 'deep_dice'; there are final_dice, both_general_union" in error


def test_04_exhibits_needs_the_tables_of_03(tmp_path):
    (tmp_path / "results/quick/runs").mkdir(parents=True)
    error, _ = papermill("04_exhibits.ipynb", tmp_path)
    assert "ablation.csv: run 03_results for this study first" in error


def test_06_segment_ct(home):
    weights = home / "results/quick/runs/both_general_union/checkpoint.safetensors"
    parameters = {"weights": str(weights), "probability": 0.02, "phantom": "mini_9000"}
    error, executed = papermill("06_segment_ct.ipynb", home, **parameters)
    assert error is None, error
    mask = read_mask(home / "results/quick/segmentations/mini_9000_airway.nii.gz")
    assert mask.same_grid(read_volume(home / "data/phantoms/raw/mini_9000/ct.nii.gz"))
    assert pictures(executed) == 1


@pytest.mark.parametrize(
    "notebook",
    [
        str(path.relative_to(NOTEBOOKS))
        if path.name == "02_train.ipynb"
        else pytest.param(str(path.relative_to(NOTEBOOKS)), marks=pytest.mark.slow)
        for path in sorted(NOTEBOOKS.rglob("*.ipynb"))
    ],
)
def test_misspelt_parameter_is_an_error_that_names_the_valid_ones(notebook, tmp_path):
    error, _ = papermill(notebook, tmp_path, studdy="x")
    assert "no parameter 'studdy'; did you mean study?" in error
    assert not (tmp_path / "results").exists()


def test_ill_typed_parameter_is_an_error(tmp_path):
    error, _ = papermill("02_train.ipynb", tmp_path, epochs="many")
    assert "epochs = 'many'" in error


def test_05_explore_gradients(tmp_path):
    """The page is beside the study's results, framed in the executed notebook, with a still and the answers."""
    write_study(tmp_path / "results/tiny/gradients", size=24)
    error, executed = papermill("05_explore_gradients.ipynb", tmp_path, study="tiny", layers=3)
    assert error is None, error
    page = tmp_path / "results/tiny/gradient_explorer.html"
    assert page.stat().st_size > 4_000_000 and "dice, final, seed 0" in page.read_text()
    text = executed.read_text()
    assert 'src=\\"results/tiny/gradient_explorer.html\\"' in text  # as seen from where papermill ran
    assert "erosion is highest at" in text and len(text) < 3_000_000
    assert pictures(executed) == 1


@pytest.mark.parametrize("notebook", ["05_explore_gradients.ipynb", "report.ipynb"])
def test_misspelt_study_is_an_error_that_names_those_there_are(notebook, tmp_path):
    (tmp_path / "results/quick/tables").mkdir(parents=True)
    error, _ = papermill(notebook, tmp_path, study="quik")
    assert "no such study; there are quick; did you mean quick?" in error
    assert not (tmp_path / "results/quik").exists()
