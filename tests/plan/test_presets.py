"""Presets of study.yaml: the runs they mean, and what a faulty one is refused for."""

import pytest
import yaml

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.claims.ledger import read_claims
from airwaystudy.plan.presets import Phantoms, Preset, planned_variants, read_preset
from airwaystudy.training.config import TrainConfig

SMALL = {"study": "s", "phantoms": {"train": "0-1", "test": "8"}, "seeds": [0, 3], "variants": {"a": {"loss": "dice"}}}


def preset(**changes):
    return home.validated(Preset, SMALL | changes, "file")


def test_seeds_of_phantoms_are_ranges():
    phantoms = Phantoms(size="chest", train="0-2", validation="7", test="10-11")
    assert phantoms.names("0-2") == ["chest_0000", "chest_0001", "chest_0002"]
    assert phantoms.names("7") == ["chest_0007"] and phantoms.names("") == []


def test_runs_are_variants_by_seeds():
    runs = preset(settings={"epochs": 3}, variants={"a": {"loss": "dice"}, "b": {"epochs": 5}}).settings_by_run()
    assert list(runs) == ["a_0", "b_0", "a_3", "b_3"]
    assert [(run["loss"], run["epochs"], run["seed"]) for run in runs.values()] == [
        ("dice", 3, 0), ("general_union", 5, 0), ("dice", 3, 3), ("general_union", 5, 3)
    ]  # fmt: skip
    assert runs["a_0"] == TrainConfig(
        study="s", run="a_0", loss="dice", epochs=3, train_cases=["mini_0000", "mini_0001"], test_cases=["mini_0008"]
    ).model_dump()  # fmt: skip


def test_a_variant_may_follow_others():
    hard = {"sampling": "hard_skeleton", "missed_by": "a", "after": "a"}
    plan = preset(variants={"a": {"loss": "dice"}, "b": hard})
    run = plan.settings_by_run()["b_3"]
    assert run["missed_by"] == "a_3" and run["start"] == "results/s/runs/a_3/checkpoint.safetensors"
    assert plan.needed("b_3") == ["a_3"] and plan.needed("a_3") == []


def test_cases_of_a_data_set_are_those_of_its_table(tmp_path):
    (tmp_path / "cases.csv").write_text("case,split,ct,airway,mended\nx,train,x,x,\ny,validation,y,y,\nz,test,z,z,\n")
    (run,) = preset(data=str(tmp_path), phantoms=None, seeds=[0]).settings_by_run().values()
    assert (run["train_cases"], run["validation_cases"], run["test_cases"]) == (["x"], ["y"], ["z"])
    with pytest.raises(InputError, match=r"no cases\.csv; make it with airwaylib prepare"):
        preset(data=str(tmp_path / "elsewhere"), phantoms=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {"a": {"los": "dice"}}}, "a_0: no parameter 'los'"),
        ({"settings": {"epochs": 0}}, "a_0: epochs = 0"),
        ({"variants": {"a": {"run": "x"}}}, "a: run is set by the study"),
        ({"settings": {"seed": 1}}, "a: seed is set by the study"),
        ({"variants": {"a": {"after": "b"}}}, "a: after 'b' is no variant"),
        ({"variants": {}}, "variants"),
        ({"cross": [{"a": "dice"}]}, "cross"),
        ({"cross": ["a"]}, "cross"),
        ({"figures": {"ours": "b"}}, "figures: 'b' is no variant"),
        ({"figures": {"curves": ["a", "c"]}}, "figures: 'c' is no variant"),
        ({"figures": {"study": "a"}}, r"figures: no setting 'study' \(valid: baseline"),
        ({"figures": {"compared": []}}, "figures: compared"),
        ({"cross": [{"b": {"loss": "dice", "seed": 1}}]}, "b: seed is set by the study"),
        ({"seeds": []}, "seeds"),
        ({"phantoms": {"train": "one", "test": "8"}}, "'one' is no range of seeds"),
        ({"phantoms": {"train": "3-1", "test": "8"}}, "'3-1' is no range of seeds"),
        ({"phantoms": {"train": "0-8", "test": "8"}}, "cases named twice"),
        ({"variantes": {}}, r"no parameter 'variantes'; did you mean variants\?"),
        ({"phantoms": {"train": "0-1", "tset": "8"}}, r"no parameter 'phantoms.tset'; did you mean test\?"),
        ({"phantoms": {"train": "0-1", "test": 8}}, "phantoms.test = 8: .*write 8-8$"),
        ({"phantoms": {"train": [2, 4, 3], "test": "8"}}, "phantoms.train = .*write 2-4$"),
        ({"phantoms": {"train": [2, 9], "test": "8"}}, "phantoms.train = .*without gaps is needed, such as 8-11"),
        ({"phantoms": {"train": "0-1", "test": "8-"}}, "8-"),
        ({"phantoms": {"train": 0.5, "test": "8"}}, "phantoms.train = 0.5: .*; write train: 0-6$"),
        ({"phantoms": "0-6"}, "phantoms = '0-6': .*; write phantoms: {size: mini, train: 0-6, test: 8-11}$"),
        ({"seeds": 3}, r"seeds = 3: .*; write seeds: \[0, 1, 2\]$"),
        ({"seeds": "0-2"}, r"seeds = '0-2': .*; write seeds: \[0, 1, 2\]$"),
        ({"seeds": ["a"]}, r"seeds.0 = 'a': .*; write seeds: \[0, 1, 2\]$"),
        ({"settings": ["epochs"]}, "settings = .*; write settings: {epochs: 5}$"),
        ({"settings": None}, "settings = None: .*; write settings: {epochs: 5}$"),
        ({"variants": ["dice"]}, "variants = .*; write variants: {both_dice: {loss: dice}}$"),
        ({"variants": {"a": None}}, "variants.a = None: .*; write variants: {both_dice: {loss: dice}}$"),
        ({"cross": {"a": {}}}, r"cross = .*; write cross: \[{both: {supervision: both}"),
        ({"gpus": "one"}, "gpus = 'one': .*; write gpus: 1$"),
        ({"threads": 1.5}, "threads = 1.5: .*; write threads: 1$"),
        ({"data": 3}, "data = 3: .*; write data: data/phantoms$"),
        ({"study": None}, "study = None: .*; write study: quick$"),
        ({"gradients": "dice"}, r"gradients = 'dice': .*; write gradients: {view: 64}$"),
        ({"figures": "dice"}, "figures = 'dice': .*; write figures: {baseline: both_dice}$"),
    ],
)
def test_a_faulty_preset_is_one_line(change, message):
    with pytest.raises(InputError, match=message):
        preset(**change)


def test_presets_of_the_repository():
    quick, ablations, paper, cross = (read_preset(name) for name in ("quick", "ablations", "paper", "cross"))
    assert len(quick.settings_by_run()) == 15 and len(paper.seeds) >= 3
    assert [len(names) for names in paper.cases().values()] == [50, 20, 20]
    assert set(paper.variants) - set(ablations.variants) == {"both_general_union_stage2"}
    assert len(cross.variants) == 4 * 6 * 3 + 1 and set(cross.variants) > {"both_general_union", "deep_dice_uniform"}
    runs = paper.settings_by_run().values()
    assert {run["supervision"] for run in runs} == {"final", "deep", "decoder", "both"}
    assert {run["network"] for run in runs} == {"wingsnet", "unet", "vnet", "attention_unet", "dynunet"}
    assert {run["sampling"] for run in runs} == {"uniform", "small_airway", "centreline", "hard_skeleton"}
    losses = {"dice", "dice_bce", "tversky", "root_tversky", "general_union_without_root", "general_union"}
    assert losses == {run["loss"] for run in runs}
    for factor in ("alpha", "root", "encoder_weight"):
        assert len({run[factor] for run in runs}) >= 3, factor


@pytest.mark.parametrize("name", ["quick", "ablations", "paper", "cross"])
def test_claims_compare_runs_of_one_sampling(name):
    """What a claim says of losses and supervision must not be the sampling's doing."""
    runs = read_preset(name).settings_by_run()
    for claim in read_claims():
        ends = [runs.get(f"{getattr(claim.measure, end, None)}_0") for end in ("variant", "base")]
        if all(ends):
            assert ends[0]["sampling"] == ends[1]["sampling"], claim.id


def test_crossed_levels_are_variants():
    losses = {"dice": {"loss": "dice"}, "union": {"loss": "general_union"}}
    samplings = {"": {}, "hard": {"sampling": "hard_skeleton", "missed_by": "first"}}
    plan = preset(variants={"first": {"loss": "dice"}, "dice": {"loss": "dice", "width": 2}}, cross=[losses, samplings])
    assert list(plan.variants) == ["first", "dice", "dice_hard", "union", "union_hard"]
    runs = plan.settings_by_run()
    assert (runs["dice_0"]["width"], runs["dice_hard_0"]["width"]) == (2, 8)  # one that is named stays
    assert (runs["union_hard_3"]["loss"], runs["union_hard_3"]["missed_by"]) == ("general_union", "first_3")
    assert plan.needed("union_hard_3") == ["first_3"] and plan.needed("union_3") == []


def test_a_link_may_be_set_for_all():
    hard = {"sampling": "hard_skeleton", "missed_by": "a"}
    plan = preset(settings=hard, variants={"a": {"sampling": "uniform", "missed_by": None}, "b": {}})
    assert plan.needed("b_3") == ["a_3"] and plan.needed("a_3") == []
    assert plan.settings_by_run()["b_3"]["missed_by"] == "a_3" and plan.settings_by_run()["a_3"]["missed_by"] is None


def test_planned_are_the_variants_of_all_presets_once():
    planned = planned_variants("quick")
    names = [row["variant"] for row in planned]
    assert len(names) == len(set(names)) and set(names) >= set(read_preset("paper").variants)
    assert names[:5] == list(read_preset("quick").variants)
    assert [row["preset"] for row in planned[4:6]] == ["quick", "ablations"]
    by_name = {row["variant"]: row for row in planned_variants("paper")}
    assert [by_name["unet_general_union"][key] for key in ("network", "width", "epochs")] == ["unet", 8, 100]
    assert by_name["both_dice"]["width"] == 8 and by_name["deep_tversky_uniform"]["sampling"] == "uniform"


def test_figures_show_variants_that_are_done():
    plan = preset(variants={"a": {}, "b": {}, "c": {}}, figures={"ours": "c", "curves": ["b", "c"]})
    done = ["a_3", "b_0", "c_0"]
    assert plan.figure_parameters(done) == {"baseline": "a", "ours": "c", "curves": ["b", "c"]}
    assert plan.figure_parameters(done[:2]) == {"baseline": "a", "ours": "b", "curves": ["b"]}
    assert plan.figure_parameters(["a_0"]) == {"baseline": "a", "ours": "a"} and plan.figure_parameters([]) == {}
    quick = read_preset("quick")
    found = quick.figure_parameters(quick.settings_by_run())
    assert (found["baseline"], found["ours"]) == ("final_dice", "both_general_union") and "compared" not in found


def test_gradients_are_of_the_runs_that_are_done_seed_by_seed():
    settings = {"snapshots": [1, 5], "epochs": 5}
    plan = preset(
        settings=settings, variants={"a": {}, "b": {}, "c": {}}, gradients={"variants": ["c", "a"], "view": 32}
    )
    done = {"a_0", "b_0", "c_0", "a_3"}
    assert plan.gradient_parameters(done) == {"study": plan.study, "view": 32, "runs": ["c_0", "a_0", "a_3"]}
    assert plan.gradient_parameters({"b_0"}) is None
    every = preset(settings=settings, variants={"a": {}, "b": {}}, gradients={})
    assert every.gradient_parameters(done)["runs"] == ["a_0", "b_0", "a_3"]
    assert preset(variants={"a": {}}).gradient_parameters(done) is None
    quick = read_preset("quick")
    assert len(quick.gradient_parameters(quick.settings_by_run())["runs"]) == 12


@pytest.mark.parametrize(
    ("gradients", "fault"),
    [
        (
            {"losses": ["dice"]},
            "gradients: no setting 'losses'; there are variants, cases, crops, view, branch_cases, looked_at",
        ),
        ({"variants": ["d"]}, "gradients: 'd' is no variant of the study"),
        ({"view": 30}, "gradients: view = 30"),
        ({"looked_at": [5, 1]}, r"gradients: .*looked_at \[5, 1\]: give rising epochs"),
        ({}, r"gradients: b keeps no weights; set its snapshots, such as \[1, 5\]"),
    ],
)
def test_faults_of_gradients_are_named(gradients, fault):
    with pytest.raises(ValueError, match=fault):
        preset(variants={"a": {"snapshots": [1]}, "b": {}}, gradients=gradients)


def test_unknown_preset_and_unreadable_file(tmp_path):
    with pytest.raises(InputError, match="no preset 'slow': choose one of quick, ablations, paper, cross"):
        read_preset("slow")
    with pytest.raises(InputError, match=r"none\.yaml: no readable YAML"):
        read_preset("quick", tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("quick: {seeds: [0]}")
    with pytest.raises(InputError, match=r"bad\.yaml, quick: .*variants"):
        read_preset("quick", tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("quick: 3\npaper: {settings: [a]}")
    with pytest.raises(
        InputError, match=r"^bad\.yaml, quick: 3 is no preset: write its settings, one 'key: value' a line"
    ):
        read_preset("quick", tmp_path / "bad.yaml")
    with pytest.raises(InputError, match=r"^bad\.yaml, paper: .*settings = \['a'\]"):
        planned_variants("paper", tmp_path / "bad.yaml")
    assert list(yaml.safe_load((home.HOME / "study.yaml").read_text())) == ["quick", "ablations", "paper", "cross"]
