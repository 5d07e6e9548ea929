"""The training configuration refuses what it does not know, by name."""

import pytest
from pydantic import ValidationError

from airwaylib import study
from airwaylib.config import TrainConfig


def config(**changes):
    return TrainConfig(**{"train_cases": ["mini_0000"], "test_cases": ["mini_0001"], **changes})


def test_paths_start_at_the_projects_root():
    assert config(study="s", run="r").folder == study.HOME / "results/s/runs/r"
    assert config(data="d").prepared("mini_0000") == study.HOME / "d/prepared/mini_0000.zarr"
    assert config(data="/elsewhere").raw("mini_0000").as_posix() == "/elsewhere/raw/mini_0000"
    assert config().cases == ["mini_0000", "mini_0001"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "../elsewhere"}, "plain folder name"),
        ({"epochs": 0}, "epochs"),
        ({"gradient_clip": 0}, "gradient_clip"),
        ({"test_cases": ["mini_0000"]}, "named twice"),
        ({"widht": 4}, "widht"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        config(**change)


def test_defaults_are_the_papers_recipe():
    assert (config().augment, config().gradient_clip) == (False, None)


def test_every_field_is_described():
    assert all(field.description for field in TrainConfig.model_fields.values())
