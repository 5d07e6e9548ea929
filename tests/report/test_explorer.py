"""The page without a kernel: its data come back as they went in, it stays small and asks the network for nothing."""

import base64
import dataclasses
import gzip
import json
import re

import numpy as np
import pytest
from synthetic_maps import EPOCHS, STRIDES, open_study

from airwaylib.errors import InputError
from airwaystudy.figures import gradient_slices as views
from airwaystudy.report import explorer
from airwaystudy.report.explorer import MOST_BYTES, STEPS, Plan, central_box, left_out, plans, stored_share, write_page

SIZE = 32
FOUR = (("dice", "final"), ("dice", "both"), ("general_union", "final"), ("general_union", "both"))


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return open_study(tmp_path_factory.mktemp("maps"), runs=FOUR, size=SIZE)


@pytest.fixture(scope="module")
def page(maps, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "new/gradient_explorer.html"
    assert write_page(maps, path) == []
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
        assert run["epochs"] == list(EPOCHS)
        for epoch in EPOCHS:
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
    assert page.count('<script type="text/plain"') == 2 + 4 * len(EPOCHS)


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
    write_page(scan[:1], tmp_path / "scan.html")
    text = (tmp_path / "scan.html").read_text()
    assert "Synthetic" not in text and "Shown: a crop of LIDC-IDRI-0001." in text
    assert "mini_0008 are phantoms" in explorer.describe([maps[0], scan[1]])


def test_names_close_no_element(maps, tmp_path):
    odd = dataclasses.replace(maps[0], loss="</script><b>", case="<i>")
    write_page([odd], tmp_path / "odd.html")
    text = (tmp_path / "odd.html").read_text()
    assert about(text)["measures"][0]["label"].startswith("</script><b>")
    assert "Shown: a crop of &lt;i&gt;." in text


def test_unknown_measures_are_null(maps, tmp_path):
    table = maps[0].measures.copy()
    table.loc[0, "erosion"], table.loc[1, "ratio"] = np.nan, np.inf
    write_page([dataclasses.replace(maps[0], measures=table)], tmp_path / "page.html")
    measures = about((tmp_path / "page.html").read_text())["measures"][0]
    assert (measures["erosion"]["0"][0], measures["ratio"]["0"][1]) == (None, None)


def test_the_same_maps_give_the_same_page(page, maps, tmp_path):
    write_page(maps, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


# -------------------------------------------------------------------------------------------------------------- size


def test_shares_keep_64_steps():
    share = np.array([0, 0.49, 0.5, 1, np.nan])
    assert stored_share(share).tolist() == [0, 31, 32, 63, 64]


def test_box_lies_on_all_cells_and_in_the_crop():
    label = np.zeros((64, 50, 20), bool)
    label[60, 5, 10] = True
    assert central_box(label, 32, 8) == (slice(32, 64), slice(0, 32), slice(0, 20))
    assert central_box(label, 64, 8) == (slice(0, 64), slice(0, 50), slice(0, 20))
    label[:] = False
    label[20, 45, 10] = True
    assert central_box(label, 32, 16) == (slice(0, 32), slice(32, 50), slice(0, 20))
    assert central_box(np.zeros((96, 96, 96), bool), 32, 8) == (slice(32, 64),) * 3


def test_plans_drop_seeds_then_epochs_then_voxels_then_runs(maps):
    seeds = [dataclasses.replace(one, seed=seed) for seed in (0, 1) for one in maps]
    many = [dataclasses.replace(one, epochs=list(range(6))) for one in seeds]
    found = list(plans(many))
    assert found[0] == Plan(tuple(range(8)), 6, SIZE)
    assert found[1:3] == [Plan((0, 1, 2, 3), 6, SIZE), Plan((0, 1, 2, 3), 3, SIZE)]
    assert found[-1] == Plan((0,), 1, SIZE)
    assert left_out(many, found[0]) == []
    assert [note.split(" (")[0] for note in left_out(many, found[2])] == [
        "4 of 8 runs are left out",
        "at most 3 of the epochs looked at are kept",
    ]
    assert found[-1].epochs_of(many[0]) == [5]
    assert found[2].epochs_of(many[0]) == [0, 2, 5]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Two runs of 64 voxels a side, and more in them than goes into what the tests allow."""
    return open_study(tmp_path_factory.mktemp("noisy"), size=64)


def test_what_does_not_fit_stays_out_and_is_told(noisy, tmp_path):
    whole = tmp_path / "whole.html"
    assert write_page(noisy, whole) == []
    sizes = [whole.stat().st_size]
    assert sizes[0] < MOST_BYTES
    least = len(explorer.Packer(noisy).template.encode())
    for data in (0.6, 0.3, 0.12):
        path, most = tmp_path / "less.html", int(least + data * (sizes[0] - least))
        notes = write_page(noisy, path, most)
        sizes.append(path.stat().st_size)
        assert sizes[-1] < most
        text = path.read_text()
        assert notes and about(text)["notes"] == notes
    assert sizes == sorted(sizes, reverse=True)
    assert notes[0].startswith("1 of 2 runs are left out (")
    assert notes[-1] == "the crop is cut to 32 voxels a side around its airway's centre"


def test_cut_pages_show_the_crops_own_voxels(noisy, tmp_path):
    packer = explorer.Packer(noisy)
    text = packer.page(Plan((0,), 1, 32), MOST_BYTES)
    run = about(text)["runs"][0]
    start, shape = run["start"], run["shape"]
    assert shape == [32, 32, 32] and all(first % 8 == 0 for first in start) and any(start)
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    np.testing.assert_array_equal(volume(text, run["volumes"]["label"]).reshape(shape), noisy[0].label[box])
    found = shares(text, run, EPOCHS[-1])
    for layer, stride in STRIDES.items():
        index = 5
        whole = views.share_slice(noisy[0].share(EPOCHS[-1], layer), (64,) * 3, 0, start[0] + index)[box[1:]]
        cut = views.share_slice(found[layer], (32,) * 3, 0, index)
        np.testing.assert_allclose(cut, whole, atol=0.5 / STEPS + 1e-6, err_msg=f"{layer}, stride {stride}")


def test_bad_input_is_one_line_and_leaves_no_file(maps, tmp_path):
    with pytest.raises(InputError, match="no gradient maps to show"):
        write_page([], tmp_path / "page.html")
    with pytest.raises(InputError, match=r"nothing fits into 1000 bytes; plotly\.js alone takes 5 million"):
        write_page(maps, tmp_path / "page.html", 1000)
    assert list(tmp_path.iterdir()) == []
