"""Images with known answers: blocks of tissue, white and coloured noise, a drawn tube with its wall; deviations."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume
from airwaystudy.phantoms.realism import (
    HU_EDGES,
    REFERENCE,
    TILE,
    closing,
    deviation,
    diameter_bins,
    hu_histogram,
    local_diameter,
    mean_curve,
    measure_ct,
    measured,
    noise_spectrum,
    noise_summary,
    noise_tiles,
    published,
    tissues,
    unit_of,
    wall_peaks,
    wall_profile,
)

LUNG, VESSEL, SOFT, AIR = -850, 60, 40, -1000


@pytest.fixture(scope="module")
def chest():
    """Soft tissue around a lung of 84 x 80 x 80 voxels of 1 mm, in it a thick vessel and an airway with its wall."""
    hu = np.full((100, 110, 110), SOFT, np.int16)
    hu[8:92, 15:95, 15:95] = LUNG
    _, y, x = np.ogrid[:100, :110, :110]
    hu[16:84, 60:68, 60:68] = VESSEL
    across = np.hypot(y - 35, x - 35) + np.zeros((100, 1, 1))
    hu[across <= 5.5] = 0
    hu[across <= 4] = AIR
    return Volume(hu), across <= 4


# ----------------------------------------------------------------------------------------------------------- tissues


def test_tissues_are_found_without_their_rims(chest):
    ct, airway = chest
    masks = tissues(ct, airway)
    for name, hu in {"lung": LUNG, "vessel": VESSEL, "body": SOFT, "airway": AIR}.items():
        assert set(ct.array[masks[name]]) == {hu}, name
    assert masks["vessel"][50, 61:67, 61:67].all() and not masks["vessel"][50, 60].any()
    _, y, x = np.nonzero(masks["lung"])
    assert np.hypot(y - 35, x - 35).min() > 7.4  # 3 mm from the lumen, and a voxel
    assert masks["lung"].sum() > 0.75 * 84 * 80 * 80
    assert not masks["body"][:, :10].any()  # outside the lungs' box


def test_closing_fills_a_gap_narrower_than_the_ball_and_no_wider():
    mask = np.zeros((20, 20, 40), bool)
    mask[:, :, :10] = mask[:, :, 14:20] = mask[:, :, 34:] = True
    closed = closing(mask, (1.0, 1.0, 1.0), 4)
    assert closed[10, 10, 10:14].all()
    assert not closed[10, 10, 21:33].any()
    assert (closed >= mask).all()


def test_histogram_counts_and_its_density_sums_to_one():
    table = hu_histogram(np.array([-1024, -1009, -1008, 0, 599]))
    assert table["voxels"].sum() == 5
    assert table.loc[0, ["hu", "voxels"]].tolist() == [-1016, 2]
    assert (table["density"] * np.diff(HU_EDGES)).sum() == pytest.approx(1)
    assert hu_histogram(np.array([4000]))["density"].sum() == 0  # what lies outside counts as a voxel of the whole


# ------------------------------------------------------------------------------------------------------------- noise


def noise_ct(smooth, spacing=(0.5, 0.5, 2.0), hu=40.0, level=20.0):
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal((30, 128, 128)), (0, smooth, smooth), mode="wrap")
    return Volume(np.rint(hu + level * noise / noise.std()).astype(np.int16), spacing=spacing)


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    ct = noise_ct(0)
    tiles = noise_tiles(ct)
    assert len(tiles) == 30 * 15 * 15
    spectrum = noise_spectrum(tiles, 0.5)
    assert spectrum["frequency"].tolist() == [step / (TILE * 0.5) for step in range(1, TILE // 2 + 1)]
    assert spectrum["power"][1:].to_numpy() == pytest.approx(20**2 * 0.5**2, rel=0.05)  # v spacing^2
    assert noise_summary(tiles, 0.5)["noise_hu"] == pytest.approx(20, rel=0.03)


def test_smooth_noise_has_the_spectrum_of_its_filter():
    """A Gaussian of s voxels multiplies power by exp(-(2 pi s f)^2), f in 1/voxel."""
    spectrum = noise_spectrum(noise_tiles(noise_ct(0.8)), 0.5)
    f = spectrum["frequency"] * 0.5
    expected = np.exp(-((2 * np.pi * 0.8 * f) ** 2))
    ratio = (spectrum["power"] / expected)[2:5]  # beyond, what leaks from the strong low frequencies counts, too
    assert (ratio / ratio.mean()).to_numpy() == pytest.approx(1, abs=0.1)


def test_peak_is_where_the_noise_is():
    """A grating of 4 voxels' period: 1 / (4 x 0.5 mm)."""
    wave = 10 * np.sin(2 * np.pi * np.arange(128) / 4)
    ct = Volume(np.broadcast_to(40 + wave, (2, 128, 128)).round().astype(np.int16), spacing=(0.5, 0.5, 1.0))
    numbers = noise_summary(noise_tiles(ct), 0.5)
    assert numbers["peak_frequency"] == pytest.approx(numbers["mean_frequency"], abs=0.02)
    assert numbers["peak_frequency"] == 0.5


def test_edges_and_other_tissue_are_no_noise():
    ct = noise_ct(0)
    step = ct.array.copy()
    step[:, :, 64:] += 200
    kept = noise_tiles(ct.with_array(step))
    assert 0 < len(kept) < 30 * 15 * 15
    assert kept.std() == pytest.approx(20, rel=0.03)
    assert len(noise_tiles(ct.with_array(ct.array - 200))) == 0


def test_a_spot_in_a_tile_is_no_noise():
    """50 HU above the rest: the tile's range is narrow, but the spot strays from its median."""
    hu = np.full((1, TILE, TILE), 40, np.int16)
    assert len(noise_tiles(Volume(hu))) == 1
    hu[:, 4:12, 4:12] += 50
    assert len(noise_tiles(Volume(hu, spacing=(4.0, 4.0, 1.0)))) == 0


def test_a_slope_is_no_noise():
    slope = np.broadcast_to(np.arange(128) * 1.0, (3, 128, 128)).astype(np.int16)
    tiles = noise_tiles(Volume(slope))
    assert len(tiles) and np.abs(tiles).max() < 1e-9


def test_too_few_tiles_are_an_error():
    with pytest.raises(InputError, match="3 flat tiles"):
        noise_spectrum(np.zeros((3, TILE, TILE)), 1.0)


# ------------------------------------------------------------------------------------------------------------- walls


def tube(radius, wall, spacing=(0.5, 0.5, 0.5), length=60):
    """A straight tube along z in lung, its wall at 0 HU around side and ends: CT (sharp edges) and lumen, by numpy."""
    n = round(2 * (radius + wall + 8) / spacing[0])
    z, y, x = np.ogrid[: round(length / spacing[2]), :n, :n]
    across = np.hypot((y - n / 2 + 0.2) * spacing[1], (x - n / 2 + 0.3) * spacing[0]) + 0.0 * z
    along = np.abs((z + 0.5) * spacing[2] - length / 2) + 0.0 * across
    mask = (across <= radius) & (along <= length / 2 - 6)
    wall = (across <= radius + wall) & (along <= length / 2 - 6 + wall)
    hu = np.select([mask, wall], [AIR, 0], LUNG)
    return Volume(hu.astype(np.int16), spacing=spacing), mask


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.5, 0.5, 1.25)])
@pytest.mark.parametrize("radius", [2.5, 5.0])
def test_profile_of_a_tube_is_lumen_wall_lung(radius, spacing):
    ct, mask = tube(radius, 1.5, spacing)
    profile = wall_profile(ct, mask)
    name = {2.5: "4-8", 5.0: "8+"}[radius]
    mine = profile[profile["diameter_mm"] == name].set_index("distance_mm")
    assert mine["normals"].max() > 0.9 * profile[profile["distance_mm"] == 0]["normals"].sum()
    assert mine.loc[-1.0, "hu"] == pytest.approx(AIR, abs=40)
    assert mine.loc[0.75, "hu"] == pytest.approx(0, abs=60)
    assert mine.loc[3.0, "hu"] == pytest.approx(LUNG, abs=40)
    border = np.interp(-500, mine["hu"][-1.0:0.75], mine.index[(mine.index >= -1) & (mine.index <= 0.75)])
    assert border == pytest.approx(0, abs=0.3)
    assert wall_peaks(profile)[f"wall_hu_{name}"] == pytest.approx(0, abs=60)


def test_diameter_of_a_tube():
    ct, mask = tube(3.0, 1.0)
    points = np.argwhere(mask)[::50] * 0.5
    assert np.median(local_diameter(mask, ct.spacing, points)) == pytest.approx(6, abs=0.3)


def test_bins_have_names_in_order():
    assert diameter_bins() == ["0-2", "2-4", "4-8", "8+"]


def test_neighbouring_airways_do_not_count_as_surroundings():
    """Between two tubes in dense tissue the sample ends where the other begins: their air is not seen."""
    z, y, x = np.ogrid[:40, :60, :80]
    tubes = [np.hypot(y - 30.3, x - centre) + 0.0 * z <= 5 for centre in (32.2, 45.2)]
    mask = tubes[0] | tubes[1]
    mask[20:26, 28:33, 32:45] = True  # joined, or they would not be one airway
    mask[0] = mask[-1] = False
    ct = Volume(np.where(mask, AIR, 40).astype(np.int16))
    profile = wall_profile(ct, mask).set_index("distance_mm")
    assert np.ravel(profile.loc[4.0, "hu"]) == pytest.approx(40, abs=1)


# --------------------------------------------------------------------------------------------------- cases, deviation


def test_a_case_is_measured(chest):
    ct, airway = chest
    rng = np.random.default_rng(1)
    noisy = ct.with_array((ct.array + np.rint(15 * rng.standard_normal(ct.array.shape))).astype(np.int16))
    found = measure_ct(noisy, airway)
    numbers = found.numbers
    assert numbers["lung_hu"] == pytest.approx(LUNG, abs=2)
    assert numbers["vessel_hu"] == pytest.approx(VESSEL, abs=2)
    assert numbers["soft_peak_hu"] == pytest.approx(SOFT, abs=8)
    assert numbers["noise_hu"] == pytest.approx(15, abs=2)
    assert numbers["lung_hu_iqr"] == pytest.approx(15 * 1.349, abs=2)
    assert numbers["lung_ml"] == pytest.approx(84 * 80 * 80 / 1000, rel=0.05)
    assert numbers["wall_hu_8+"] > -300
    assert set(found.histograms["tissue"]) == {"lung", "body"}
    assert len(found.spectrum) == TILE // 2


def test_mean_curve_is_over_the_cases_that_have_the_key():
    one, two = (pd.DataFrame({"bin": ["b", "a"][: n + 1], "hu": [2.0, 6.0][: n + 1]}) for n in (1, 0))
    two["hu"] = 4.0
    assert mean_curve([one, two], ["bin"]).values.tolist() == [["b", 3.0], ["a", 6.0]]


def test_deviation_is_from_the_nearer_end():
    cases = [{"noise_hu": 20.0, "length_over_diameter": 2.0}, {"noise_hu": 24.0, "length_over_diameter": 2.0}]
    rows = [
        ["noise_hu", 10.0, 20.0],
        ["noise_hu", 21.0, 30.0],
        ["length_over_diameter", 2.5, 3.3],
        ["absent", 1.0, 1.0],
    ]
    table = deviation(cases, pd.DataFrame([[*row, "there"] for row in rows], columns=REFERENCE))
    assert table["difference"].tolist() == [2.0, 0.0, -0.5]
    assert table["ratio"].tolist() == pytest.approx([np.nan, np.nan, 0.8], nan_ok=True)
    assert table["unit"].tolist() == ["HU", "HU", "1"]
    assert (table["cases"] == 2).all()
    assert table.loc[0, ["phantom", "mean_low", "mean_high"]].tolist() == [22.0, 20.0, 24.0]


def test_one_case_has_no_interval():
    table = deviation([{"angle_deg": 50.0}], published(4800.0))
    assert table["difference"].tolist() == [5.0]
    assert table[["mean_low", "mean_high"]].isna().all(axis=None)


def test_published_trachea_is_weibels_scaled_to_the_lung():
    table = published(600.0).set_index("property")
    assert table.loc["trachea_diameter_mm", "low"] == pytest.approx(9)
    assert "600 ml" in table.loc["trachea_diameter_mm", "source"]


def test_measured_reference_is_the_range_of_the_cases():
    table = measured([{"a": 1.0, "b": 5.0}, {"a": 3.0}], "two CTs").set_index("property")
    assert table.loc["a", ["low", "high"]].tolist() == [1.0, 3.0]
    assert table.loc["b", ["low", "high"]].tolist() == [5.0, 5.0]


@pytest.mark.parametrize(
    ("name", "unit"),
    {
        "wall_hu_2-4": "HU",
        "lung_hu_iqr": "HU",
        "angle_deg": "deg",
        "lung_ml": "ml",
        "trachea_diameter_mm": "mm",
        "peak_frequency": "1/mm",
        "generations": "1",
        "branching_ratio": "1",
        "murray_exponent": "1",
    }.items(),
)
def test_units_follow_from_names(name, unit):
    assert unit_of(name) == unit
