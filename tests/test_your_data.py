"""From files on disk to a scored table by three commands, prepare, train and evaluate, for every layout."""

import pandas as pd
import pytest
import yaml
from mini_phantoms import mini
from tiny_cases import write_dicom
from typer.testing import CliRunner

from airwaylib.images.volume import write_volume
from airwaylib.inference import DEFAULT_WEIGHTS
from airwaystudy import home
from airwaystudy.cli import app
from airwaystudy.data.layouts import LAYOUTS

# Three cases of each layout: name, and where the download has CT and label (a CT without a suffix is a DICOM folder).
FILES = {
    "bas": [
        ("LIDC_IDRI_0001", "image/LIDC_IDRI_0001.nii.gz", "label/LIDC_IDRI_0001.nii.gz"),
        ("LIDC_IDRI_0002", "image/LIDC_IDRI_0002.nii.gz", "label/LIDC_IDRI_0002.nii.gz"),
        ("EXACT09_CASE01", "EXACT09/CASE01", "EXACT09_label/CASE01_label.nii.gz"),
    ],
    "atm22": [(f"ATM_00{n}", f"imagesTr/ATM_00{n}_0000.nii.gz", f"labelsTr/ATM_00{n}_0000.nii.gz") for n in (1, 2, 3)],
    "aiib23": [(f"AIIB23_{n}", f"img/AIIB23_{n}.nii.gz", f"gt/AIIB23_{n}.nii.gz") for n in (1, 2, 3)],
    "exact09": [(f"EXACT09_CASE0{n}", f"CASE0{n}", f"labels/CASE0{n}.nii.gz") for n in (1, 2, 3)],
    "aeropath": [(f"AeroPath_0{n}", f"{n}/{n}_CT_HR.nii.gz", f"{n}/{n}_CT_HR_label_airways.nii.gz") for n in (1, 2, 3)],
    "phantom": [(f"mini_000{n}", f"mini_000{n}/ct.nii.gz", f"mini_000{n}/airway.nii.gz") for n in range(3)],
    "folder": [(name, f"images/{name}.mha", f"labels/{name}.nrrd") for name in ("a", "b", "c")],
}
SETTINGS = {
    "study": "mine",
    "run": "first",
    "start": str(DEFAULT_WEIGHTS),  # a network that knows airways: the scores tell that CT and label belong together
    "width": 4,
    "crop": 64,
    "crops_per_case": 1,
    "epochs": 1,
    "learning_rate": 1e-5,
    "device": "cpu",
}


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_every_layout_is_tried():
    assert set(FILES) == set(LAYOUTS)


@pytest.mark.parametrize(
    "layout", [name if name in ("bas", "folder") else pytest.param(name, marks=pytest.mark.slow) for name in FILES]
)
def test_three_commands_from_files_to_scores(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(home, "HOME", tmp_path)
    for (_, ct, label), phantom in zip(FILES[layout], map(mini, range(3)), strict=True):
        if "." in ct:
            write_volume(phantom.ct, tmp_path / "download" / ct)
        else:
            write_dicom(phantom.ct, tmp_path / "download" / ct)
        write_volume(phantom.airway, tmp_path / "download" / label)
    train, validation, test = (name for name, *_ in FILES[layout])
    split = tmp_path / "split.yaml"
    split.write_text(yaml.safe_dump({"train": [train], "validation": [validation], "test": [test]}))
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(SETTINGS))

    run("prepare", layout, tmp_path / "download", "--output", tmp_path / "data", "--split", split, "--jobs", 1)
    run("train", "--config", config, f"data={tmp_path / 'data'}")
    said = run("evaluate", tmp_path / "results/mine/runs/first", "--csv", tmp_path / "scores.csv")

    (row,) = pd.read_csv(tmp_path / "scores.csv").to_dict("records")
    assert row["case"] == test and row["convention"] == "paper" and test in said
    assert row["td"] > 60 and row["dsc"] > 50
    assert (tmp_path / f"results/mine/runs/first/predictions/{test}.nii.gz").is_file()
    metrics = pd.read_csv(tmp_path / "results/mine/runs/first/metrics.csv")
    assert metrics["td"].iloc[-1] > 60  # of the validation case
