"""The explorer: its data come back as they went in, it answers its questions, and it asks the network for nothing."""

import base64
import dataclasses
import gzip
import json
import re
from html import escape

import numpy as np
import pandas as pd
import pytest
from synthetic_maps import EPOCHS, STRIDES, open_study

from airwaylib.errors import InputError
from airwaystudy.figures import gradient_slices as views
from airwaystudy.report import explorer
from airwaystudy.report.explorer import STEPS, ask_all, opening, stored_share, write_explorer

SIZE = 32
FOUR = (("dice", "final"), ("dice", "both"), ("general_union", "final"), ("general_union", "both"))


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return open_study(tmp_path_factory.mktemp("maps"), runs=FOUR, size=SIZE)


@pytest.fixture(scope="module")
def page(maps, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "new/gradient_explorer.html"
    assert write_explorer(maps, path) == path
    return path.read_text(encoding="utf-8")


def about(page):
    (text,) = re.findall(r'<script type="application/json" id="about">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def volume(page, name):
    (text,) = re.findall(rf'<script type="text/plain" id="{name}">(.*?)</script>', page, re.DOTALL)
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8)


def shares(page, run, epoch):
    """Each layer's shares on the page, nan where there is none."""
    stored, found = volume(page, run["volumes"][str(epoch)]), {}
    for layer in run["layers"]:
        count = int(np.prod(layer["shape"]))
        values, stored = stored[:count].reshape(layer["shape"]), stored[count:]
        found[layer["name"]] = np.where(values > STEPS, np.nan, values / STEPS)
    assert len(stored) == 0
    return found


def test_shares_come_back_rounded_and_nan_stays_nan(page, maps):
    for run, one in zip(about(page)["runs"], maps, strict=True):
        assert run["epochs"] == [0, 5]  # the first and the last of three
        for epoch in run["epochs"]:
            for layer, found in shares(page, run, epoch).items():
                np.testing.assert_allclose(found, one.share(epoch, layer), rtol=0, atol=0.5 / STEPS + 1e-6)
    assert np.isnan(found).any() and np.isfinite(found).any()


def test_image_label_and_measures_come_back(page, maps):
    data = about(page)
    run, one = data["runs"][1], maps[1]
    np.testing.assert_array_equal(volume(page, run["volumes"]["image"]).reshape(run["shape"]), one.image)
    np.testing.assert_array_equal(volume(page, run["volumes"]["label"]).reshape(run["shape"]), one.label)
    measures = data["measures"][run["number"]]
    assert measures["label"] == views.run_label(one)
    for name in ("erosion", "dilation", "ratio"):
        np.testing.assert_allclose(measures[name]["5"], views.curve(one, 5, name), atol=1e-4)
    assert [layer["stride"] for layer in run["layers"]] == [[stride] * 3 for stride in STRIDES.values()]


def test_runs_on_the_same_crop_share_image_and_label(page):
    images = {run["volumes"]["image"] for run in about(page)["runs"]}
    assert len(images) == 1
    assert page.count('<script type="text/plain"') == 2 + 4 * 2


def test_page_is_whole_and_asks_the_network_for_nothing(page):
    ours = re.sub(r"<script>/\*\*\s*\* plotly\.js.*?</script>", "", page, flags=re.DOTALL)
    assert len(page) - len(ours) > 3_000_000  # plotly.js, once
    assert "@@" not in re.sub(r'<script type="text/plain".*?</script>', "", ours, flags=re.DOTALL)
    assert re.findall(r"https?://|//cdn|\bimport\b|@import|url\(", ours) == []
    assert re.findall(r"<(?:script|img|link|iframe)[^>]*\b(?:src|href)=\"(?!data:)", ours) == []
    assert "fetch(" not in ours and "XMLHttpRequest" not in ours


def test_controls_have_labels_and_pictures_a_place_for_their_texts(page):
    for control in ("run", "layer", "epoch", "axis", "slice", "along"):
        assert f'<label for="{control}">' in page and f'id="{control}"' in page
    assert len(re.findall(r'<div class="plot" id="\w+" role="img">', page)) == 5
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page


def test_page_says_that_phantoms_are_synthetic(page, maps, tmp_path):
    said = "Synthetic data: CT and airways are phantoms, not a patient&#x27;s. Shown: a crop of mini_0008."
    assert said in page
    scan = [dataclasses.replace(one, case="LIDC-IDRI-0001") for one in maps]
    write_explorer(scan[:1], tmp_path / "scan.html")
    text = (tmp_path / "scan.html").read_text()
    assert "Synthetic" not in text and "Shown: a crop of LIDC-IDRI-0001." in text
    assert "mini_0008 are phantoms" in explorer.describe_data([maps[0], scan[1]])


def test_names_close_no_element(maps, tmp_path):
    odd = dataclasses.replace(maps[0], loss="</script><b>", case="<i>")
    write_explorer([odd], tmp_path / "odd.html")
    text = (tmp_path / "odd.html").read_text()
    assert about(text)["measures"][0]["label"].startswith("</script><b>")
    assert "Shown: a crop of &lt;i&gt;." in text


def test_unknown_measures_are_null(maps, tmp_path):
    table = maps[0].measures.copy()
    table.loc[0, "erosion"], table.loc[1, "ratio"] = np.nan, np.inf
    write_explorer([dataclasses.replace(maps[0], measures=table)], tmp_path / "page.html")
    measures = about((tmp_path / "page.html").read_text())["measures"][0]
    assert (measures["erosion"]["0"][0], measures["ratio"]["0"][1]) == (None, None)


def test_the_same_maps_give_the_same_page(page, maps, tmp_path):
    write_explorer(maps, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_shares_keep_64_steps():
    share = np.array([0, 0.49, 0.5, 1, np.nan])
    assert stored_share(share).tolist() == [0, 31, 32, 63, 64]


def test_one_seed_has_pictures_and_all_have_curves(maps, tmp_path):
    seeds = [dataclasses.replace(one, seed=seed) for one in maps for seed in (0, 1)]
    data = about(write_explorer(seeds, tmp_path / "page.html").read_text())
    assert [run["number"] for run in data["runs"]] == [0, 2, 4, 6]
    assert len(data["measures"]) == 8


def test_no_maps_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(InputError, match="no gradient maps to show"):
        write_explorer([], tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- questions


def measured(one, erosion, seed=0, dilation=0.5):
    """The maps of a run with these shares of erosion, by epoch and layer; 0 elsewhere."""
    rows = [
        {
            "epoch": epoch,
            "layer": layer,
            "erosion": erosion.get((epoch, layer), 0.0),
            "dilation": dilation,
            "ratio": 1.0,
        }
        for epoch in EPOCHS
        for layer in STRIDES
    ]
    return dataclasses.replace(one, measures=pd.DataFrame(rows), seed=seed)


@pytest.fixture(scope="module")
def told(maps):
    """Two seeds of Dice on the last block, one of General Union there; of 8 layers, 3 fine enough to open on."""
    dice, union = maps[2], maps[3]
    assert (dice.loss, dice.supervision, union.loss) == ("dice", "final", "general_union")
    eroded = {(5, "ec11"): 0.8, (5, "ec5"): 0.4, (5, "ec1"): 0.2, (0, "ec1"): 0.4}
    twice = {key: value / 2 for key, value in eroded.items()}
    return [measured(union, {}, dilation=0.9), measured(dice, eroded), measured(dice, twice, seed=1)]


def test_page_opens_on_the_baseline_where_a_fine_layer_is_eroded_most(told):
    assert opening(told[:2]) == (1, list(STRIDES).index("ec5"))  # ec11, with cells of 8 voxels, is eroded more
    assert opening(told[:1])[0] == 0


def test_answers_are_the_runs_numbers(told):
    erosion, loss, supervision, training = (answer for _, _, answer in ask_all(told))
    assert "dice, final, epoch 5, 2 seeds (lowest to highest): erosion is highest at ec11" in erosion
    assert (
        "the gradient of 60 % (40 to 80) of the airway voxels. At ec1, the first layer, it owns 15 % (10 to 20)."
        in erosion
    )
    assert erosion.endswith("At ec5, where this page opens, it owns 30 % (20 to 40).")
    # over 8 layers: (0.8 + 0.4 + 0.2) / 8 = 17.5 % and half of it
    assert "erosion loss dice 13 % (9 to 18), loss general union 0 %" in loss
    assert "dilation loss dice 50 % (50 to 50), loss general union 90 %" in loss
    assert supervision == "These runs cannot tell: there is only one supervision, final."
    assert "erosion epoch 0 4 % (2 to 5), epoch 2 0 % (0 to 0), epoch 5 13 % (9 to 18)" in training


def test_questions_and_answers_stand_on_the_page(told, tmp_path):
    text = write_explorer(told, tmp_path / "page.html").read_text()
    for title, ask, answer in ask_all(told):
        assert f"<b>{title}.</b> {escape(ask)}" in text and escape(answer) in text


def test_unmeasured_erosion_is_told(maps):
    unknown = maps[2].measures.assign(erosion=np.nan)
    assert ask_all([dataclasses.replace(maps[2], measures=unknown)])[0][2] == "In these runs erosion was not measured."
