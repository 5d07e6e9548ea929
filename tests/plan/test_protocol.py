"""Contrasts of a preset and their faults; docs/protocol.md says what study.yaml and the code do."""

import pytest
from refusals import refused

from airwaystudy import home
from airwaystudy.analysis.contrasts import VERDICTS
from airwaystudy.phantoms.names import SIZES
from airwaystudy.plan.needs import training_steps
from airwaystudy.plan.presets import Preset, read_preset
from airwaystudy.plan.protocol import OUTCOMES, PRIMARY, Contrast, contrast_faults
from airwaystudy.training.config import Recipe
from airwaystudy.training.held_out import LOGITS, THIN_MM

ARMS = {"both_dice": {"loss": "dice"}, "both_union": {"loss": "general_union"}}
PAIR = {"arm": "both_union", "base": "both_dice", "factor": "loss"}


def preset(**changes):
    given = {"study": "s", "phantoms": {"train": "0", "test": "8"}, "seeds": [0], "variants": ARMS}
    return home.validated(Preset, given | {"primary": "td_80", "protocol": 1, "contrasts": [PAIR]} | changes, "file")


def test_the_primary_outcome_comes_first():
    assert PRIMARY == "td_80" and list(OUTCOMES)[:3] == ["td_80", "td_80_whole", "td_thin_80"]


def test_a_preset_holds_its_contrasts():
    plan = preset(contrasts=[PAIR, PAIR | {"factor": ["loss", "alpha"], "name": "twice", "primary": True}])
    one, other = plan.contrasts
    assert (one.title, one.factor, one.expect, one.primary) == ("both_union - both_dice", ["loss"], "greater", False)
    assert (other.title, other.factor, other.primary) == ("twice", ["loss", "alpha"], True)
    assert (plan.primary, plan.margin, plan.protocol) == ("td_80", 1.0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"primary": None}, "contrasts need a primary outcome: set primary, such as td_80"),
        ({"protocol": None}, "contrasts need a protocol: set its version, such as protocol: 1"),
        ({"primary": "td80"}, "primary: no outcome 'td80'; did you mean td_80?"),
        ({"contrasts": [PAIR | {"base": "both_dise"}]}, "'both_dise' is no variant; did you mean both_dice?"),
        ({"contrasts": [PAIR | {"base": "both_union"}]}, "arm and base are the same"),
        ({"contrasts": [PAIR, PAIR]}, "contrast both_union - both_dice comes twice"),
        ({"contrasts": [PAIR | {"factor": []}]}, "contrasts.0.factor"),
        ({"contrasts": [PAIR | {"expects": "less"}]}, "no parameter 'contrasts.0.expects'; did you mean expect?"),
        ({"contrasts": [PAIR | {"expect": "equal"}]}, "contrasts.0.expect"),
        ({"margin": 0}, "margin = 0"),
    ],
)
def test_faults_are_refused_in_one_line(change, message):
    refused(lambda: preset(**change), message)


def test_without_contrasts_no_outcome_is_needed():
    assert preset(contrasts=[], primary=None, protocol=None).primary is None
    assert contrast_faults([Contrast(**PAIR)], "td_80", ARMS, 1) == []


# ----------------------------------------------------------------------------------------------- docs/protocol.md


TEXT = (home.HOME / "docs/protocol.md").read_text(encoding="utf-8")


def rows_under(title, columns):
    """Cells of the first table below a heading, its header left out."""
    lines = TEXT[TEXT.index(f"## {title}\n") :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    found = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    assert all(len(row) == columns for row in found)
    return found


def test_the_text_has_the_version_data_and_training_of_study_yaml():
    plan = read_preset("decide")
    run = Recipe(**plan.settings_by_run()["both_general_union_0"])
    first, last = run.runs()
    warm = Recipe(**plan.settings_by_run()["warm_both_0"])
    assert f"Version {plan.protocol}." in TEXT and plan.seeds == list(range(12)) and "Twelve seeds, 0 to 11" in TEXT
    assert (plan.phantoms.size, plan.phantoms.train, plan.phantoms.validation, plan.phantoms.test) == (
        "thin", "0-11", "90-91", "100-111"
    )  # fmt: skip
    smallest = f"from a radius of {SIZES['thin'].smallest_airway} mm on"
    for words in (smallest, "seeds 0-11;", "90-91 are for validation", "100-111 are tested"):
        assert words in " ".join(TEXT.split()), words
    assert "WingsNet of width 4, crops of 32³ voxels one at a time, AdamW, centreline sampling" in TEXT
    assert (run.network, run.width, run.crop, run.batch_size, run.optimizer, run.sampling) == (
        "wingsnet", 4, 32, 1, "adamw", "centreline"
    )  # fmt: skip
    assert "label threshold 0.6, sliding windows of 64³" in TEXT and "channel dropout 0.3 in every arm" in TEXT
    assert (run.label_threshold, run.thin_label_threshold, run.window, run.dropout) == (0.6, None, 64, 0.3)
    stages = [[str(c.epochs), str(training_steps(c)), f"{c.learning_rate:g}"] for c in (warm, first, last)]
    assert [row[1:] for row in rows_under("Training", 4)] == stages and (first.alpha, last.alpha) == (0.1, 0.2)


def test_the_text_has_the_arms_of_study_yaml():
    plan = read_preset("decide")
    for arm, supervision, encoder_weight, loss in rows_under("Arms", 4):
        config = Recipe(**plan.settings_by_run()[f"{arm}_0"])
        assert config.supervision == supervision
        assert supervision == "final" or config.encoder_weight == float(encoder_weight)
        assert loss.lower().replace(" ", "_").startswith(config.loss)
        assert ("times 4, then times 2" in loss) == (arm == "both_dice_gain")
    arms = [row[0] for row in rows_under("Arms", 4)]
    assert arms == [name for name in plan.variants if not name.startswith("warm")]


def test_the_text_has_outcomes_margin_and_contrasts_of_the_code():
    plan = read_preset("decide")
    assert f"from logit {LOGITS[0]:g} to {LOGITS[-1]:g} in steps of {LOGITS[1] - LOGITS[0]:g}" in TEXT
    assert f"under {THIN_MM:g} mm in diameter" in TEXT and plan.primary == "td_80"
    assert f"margin of ± {plan.margin:g} point" in TEXT
    assert len(rows_under("Contrasts", 3)) == sum(contrast.primary for contrast in plan.contrasts) == 4
    assert all(contrast.expect == "greater" for contrast in plan.contrasts)
    assert [row[0] for row in rows_under("Analysis", 2)] == list(VERDICTS)


def test_the_replication_is_of_another_seed():
    plan, again = read_preset("decide"), read_preset("replication")
    assert again.seeds == [12] and "one seed that the reference lacks, 12," in TEXT
    assert not set(again.seeds) & set(plan.seeds) and again.reference == "decide"
