"""Replications by hand: intervals for new seeds, what counts as inside, and what is refused or left out."""

import shutil

import numpy as np
import pandas as pd
import pytest
from refusals import refused
from scipy.stats import t
from synthetic_study import write_runs

from airwaystudy import home
from airwaystudy.analysis.contrasts import differences, one_more_seed, write_tables
from airwaystudy.analysis.outcomes import CURVE
from airwaystudy.analysis.replication import replication, scatter, write_replication
from airwaystudy.plan.presets import Preset
from airwaystudy.plan.runs import collect

ARMS = {"dice": {"loss": "dice"}, "union": {"loss": "general_union"}, "tversky": {"loss": "tversky"}}
CASES = ["test_a", "test_b"]
LOSS = {"arm": "union", "base": "dice", "factor": "loss", "primary": True, "name": "loss"}
ROOT = {"arm": "union", "base": "tversky", "factor": "loss", "name": "root"}


def made_preset(**changes):
    given = {"study": "made_up", "phantoms": {"train": "0", "test": "8"}, "seeds": [0], "variants": ARMS}
    given |= {"primary": "td_80", "protocol": 1, "contrasts": [LOSS, ROOT]}
    return home.validated(Preset, given | changes, "file")


def gain(arm, seed):
    """Of union over dice and tversky: 1, 2 or 3 points for seeds 0 to 2, and 2.5 for every other seed."""
    return 0.0 if arm != "union" else 1.0 + seed if seed < 3 else 2.5


def made(name, seeds, gain=gain, arms=ARMS):
    """Runs with one threshold a case, at precision 90: TD 80 and 90 % by case, the gain on top; their tables."""
    folder = write_runs(home.HOME, arms, seeds=seeds, cases=CASES, name=name)
    for arm in arms:
        for seed in seeds:
            td = [base + gain(arm, seed) for base in (80.0, 90.0)]
            table = pd.DataFrame({"case": CASES} | {column: td for column in CURVE[2:]})
            table = table.assign(logit=0, precision=90, precision_whole=90)[list(CURVE)]
            home.write_csv(folder / f"runs/{arm}_{seed}/trade_off.csv", table)
    write_tables(collect(name), made_preset())
    return folder


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    """A study of three seeds: differences 1, 2, 3 in each case."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, "HOME", tmp_path_factory.mktemp("reference"))
        return made("made_up", range(3))


@pytest.fixture
def reference(three_seeds, tmp_path, monkeypatch):
    """A copy of that study as the reference of a project."""
    monkeypatch.setattr(home, "HOME", tmp_path)
    return shutil.copytree(three_seeds, tmp_path / "results/reference/made_up")


def test_one_new_seed_is_held_against_the_prediction_interval(reference):
    here = made("made_up", [7])
    found = replication(here, reference, made_preset())
    loss = found.contrasts.set_index("name").loc["loss"]
    reach = t.ppf(0.975, 2) * 1 * np.sqrt(1 + 1 / 3)  # mean 2, standard deviation 1 of three seeds
    assert loss[["difference", "reference"]].tolist() == [2.5, 2]
    assert loss[["low_predicted", "high_predicted"]].astype(float).tolist() == pytest.approx(
        [2 - reach, 2 + reach], abs=1e-4
    )
    assert (loss["inside"], loss["seeds"], loss["cases"]) == (True, 1, 2)
    assert loss["verdict"] == "open"  # of the reference: p of three seeds, corrected
    assert found.in_words == "replicates 2 of 2 contrasts" and found.notes == []


def test_a_seed_far_off_does_not_replicate(reference):
    far = made("made_up", [7], gain=lambda arm, seed: {"dice": 0.0, "union": 8.0, "tversky": 6.0}[arm])
    found = replication(far, reference, made_preset())
    assert found.contrasts["inside"].tolist() == [False, True]  # 8 and 2; the interval ends at 6.97
    assert found.in_words == "replicates 1 of 2 contrasts"


def test_several_new_seeds_scatter_less():
    """Of S = 3: one more scatters as sqrt(4/3), the mean of six more as sqrt(1/6 + 1/3) = sqrt(1/2)."""
    assert scatter(1.0, 1, 3) == 1
    assert scatter(2.0, 6, 3) == pytest.approx(2 * np.sqrt(0.5 / (4 / 3)))


def test_the_interval_for_the_mean_of_several_seeds_covers_it():
    """Student's for the difference of two means of 12 and 4 seeds, of which the 12 say the spread."""
    rng, hits, tries = np.random.default_rng(5), 0, 500
    for _ in range(tries):
        seeds = rng.normal(size=16)
        reach = scatter(one_more_seed(seeds[:12])[1] - seeds[:12].mean(), 4, 12)
        hits += abs(seeds[12:].mean() - seeds[:12].mean()) < reach
    assert 0.925 < hits / tries < 0.98


def test_arms_beside_the_reference_stay_between_0_and_100(reference):
    here = made("made_up", [7, 8])
    arms = replication(here, reference, made_preset()).arms.set_index(["variant", "outcome"])
    row = arms.loc[("union", "td_80")]
    assert row[["here", "reference", "sd_seed", "seeds"]].tolist() == pytest.approx([87.5, 87, 1, 2])
    # On the logit scale, with slope 1 / (0.87 * 0.13): one seed's reach, times sqrt((1/2 + 1/3) / (1 + 1/3)).
    reach = t.ppf(0.975, 2) * 0.01 * np.sqrt(1 / 2 + 1 / 3) / (0.87 * 0.13)
    odds = 0.87 / 0.13 * np.exp([-reach, reach])
    ends = row[["low_predicted", "high_predicted"]].astype(float).tolist()
    assert ends == pytest.approx(100 * odds / (1 + odds), abs=1e-3) and row["inside"]
    same = arms.loc[("dice", "td_80")]  # no seed differs from another
    assert same["here"] == same["low_predicted"] == same["high_predicted"] == 85 and same["inside"]


def test_seeds_of_the_reference_are_left_out(reference):
    here = made("made_up", [2, 7])
    found = replication(here, reference, made_preset())
    assert found.notes == ["seed 2: in the reference as well, not independent of it; left out"]
    assert found.contrasts["difference"].tolist() == [2.5, 2.5] and found.contrasts["seeds"].tolist() == [1, 1]
    shutil.rmtree(here)
    found = replication(made("made_up", [1, 2]), reference, made_preset())
    assert found.in_words == "nothing to replicate"
    assert found.notes[1:] == [f"contrast {name}: no seed with both arms here" for name in ("loss", "root")]


def test_a_run_with_other_settings_under_a_known_name_is_left_out(reference):
    here = made("made_up", [7], arms=ARMS | {"tversky": {"loss": "tversky", "crop": 48}})
    found = replication(here, reference, made_preset())
    assert found.notes == [
        "tversky_7: crop is 48, in the reference 40; left out",
        "contrast root: no seed with both arms here",
    ]
    assert found.in_words == "replicates 1 of 1 contrasts" and "tversky" not in set(found.arms["variant"])


def test_bookkeeping_may_differ(reference):
    arms = {arm: settings | {"snapshots": [1], "workers": 2} for arm, settings in ARMS.items()}
    assert replication(made("made_up", [7], arms=arms), reference, made_preset()).notes == []


def test_runs_without_a_case_or_unknown_to_the_reference_are_left_out(reference):
    here = made("made_up", [7], arms=ARMS | {"own": {"loss": "dice", "alpha": 0.3}})
    path = here / "tables/outcomes.csv"
    scores = pd.read_csv(path)
    home.write_csv(path, scores[(scores["run"] != "tversky_7") | (scores["case"] != "test_b")])
    found = replication(here, reference, made_preset())
    assert found.notes[:2] == [
        "own_7: the reference has no own; left out",
        "tversky_7: no outcome of test_b; left out",
    ]
    assert found.in_words == "replicates 1 of 1 contrasts"


def test_settings_that_cannot_be_compared_are_noted(reference):
    here = made("made_up", [7])
    shutil.rmtree(reference / "runs/tversky_0")
    (note, _) = replication(here, reference, made_preset()).notes
    assert note.startswith("tversky_7: its settings cannot be compared without") and "\n" not in note


def test_contrasts_that_the_reference_does_not_have_are_noted(reference):
    here = made("made_up", [7])
    other = ROOT | {"base": "dice", "name": "root"}
    found = replication(here, reference, made_preset(contrasts=[LOSS, other, ROOT | {"name": "new"}]))
    assert found.contrasts["name"].tolist() == ["loss"]
    assert found.notes == [
        "contrast root: union - tversky in the reference; left out",
        "contrast new: not run in the reference",
    ]


def test_another_protocol_and_missing_tables_are_refused(reference):
    here = made("made_up", [7])
    refused(lambda: replication(here, reference, made_preset(protocol=2)), reference, "of protocol version 1, not 2")
    none = made_preset(contrasts=[], primary=None)
    refused(lambda: replication(here, reference, none), "preset made_up: no primary outcome")
    refused(
        lambda: replication(here, reference.with_name("none"), made_preset()), "none/tables/outcomes.csv: no such table"
    )
    (reference / "tables/contrasts.csv").unlink()
    refused(lambda: replication(here, reference, made_preset()), "contrasts.csv: no such table")


def test_tables_are_written(reference):
    made("made_up", [7])
    found = write_replication("made_up", made_preset())
    tables = home.results("made_up") / "tables"
    assert pd.read_csv(tables / "replication.csv")["inside"].tolist() == [True, True]
    assert len(pd.read_csv(tables / "replication_arms.csv")) == len(found.arms) > 0


def test_the_reference_keeps_what_its_contrasts_were(reference):
    """The committed difference is that of the committed outcomes."""
    scores = pd.read_csv(reference / "tables/outcomes.csv")
    table = pd.read_csv(reference / "tables/contrasts.csv")
    row = table[(table["name"] == "loss") & (table["outcome"] == "td_80")].iloc[0]
    assert row["difference"] == pytest.approx(differences(scores, "union", "dice", "td_80").to_numpy().mean(), abs=1e-6)
