"""Contrasts of a preset: what they are called, and what a faulty one is refused for."""

import pytest
from refusals import refused

from airwaystudy import home
from airwaystudy.plan.presets import Preset
from airwaystudy.plan.protocol import OUTCOMES, PRIMARY, Contrast, contrast_faults

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
