"""Captions: long enough to tell something, and of every figure that is committed with a study the report is about."""

import re
from pathlib import Path

import nbformat
import pytest

from airwaystudy.report.captions import (
    EXPECTED_FIGURES,
    EXPECTED_TABLES,
    FIGURES,
    TABLES,
    figure_caption,
    table_caption,
)

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SAVED = r'save_figure\(.*?(?:saved|drawn|"figures") / "(\w+)"\)'
WRITTEN = r'write_csv\([^\n]*?(?:tables|"tables") / "(\w+)\.csv"'


def named(pattern, *notebooks):
    """What the code of notebooks writes, by a pattern with the name in it."""
    found = set()
    for path in (path for number in notebooks for path in NOTEBOOKS.glob(f"{number}_*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        found |= set(re.findall(pattern, "\n".join(cell.source for cell in cells if cell.cell_type == "code")))
    return found


def test_what_the_notebooks_make_has_a_caption():
    drawn, written = named(SAVED, "01", "03", "04"), named(WRITTEN, "03", "04")
    assert {"erosion_by_layer", "predictions"} <= drawn <= set(FIGURES)
    assert {"scores_by_case", "scores_by_diameter"} <= written <= set(TABLES)


@pytest.mark.parametrize("stem", FIGURES)
def test_alt_texts_say_what_is_seen(stem):
    caption = FIGURES[stem]
    assert len(caption.alt.split()) >= 12 and caption.alt.endswith(".") and "\n" not in caption.alt
    assert not caption.title.endswith(".") and caption.alt != caption.title
    assert caption.maker[:2].isdigit()


def test_what_is_expected_has_a_caption():
    assert set(EXPECTED_FIGURES) <= set(FIGURES) and set(EXPECTED_TABLES) <= set(TABLES)
    assert all(text.endswith(".") for text in TABLES.values())


def test_what_is_not_listed_gets_its_name():
    assert figure_caption("loss_curves").title == "Loss curves" and "Loss curves" in figure_caption("loss_curves").alt
    assert table_caption("by_lobe") == "By lobe"
