"""The report: one page from a made-up study, that needs no network and says what is missing."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from synthetic_study import write_runs
from synthetic_tables import write_figure, write_scores
from typer.testing import CliRunner

from airwaylib.errors import InputError
from airwaystudy import home as study
from airwaystudy.claims.ledger import read_claims
from airwaystudy.cli import app
from airwaystudy.report import captions, report

VARIANTS = {
    "final_dice": {"supervision": "final", "loss": "dice"},
    "both_general_union": {"supervision": "both", "loss": "general_union"},
}


def score(variant, seed, case):
    more = 10 + seed if variant == "both_general_union" else 0
    return {"td": 80.0 + more, "bd": 60.0 + more, "dsc": 85.0, "precision": 90.0, "fpr": 0.05}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HOME", tmp_path)
    return tmp_path


@pytest.fixture
def results(home):
    """Tables and one figure; no runs."""
    folder = home / "results/made_up"
    write_scores(folder, VARIANTS, score)
    write_figure(folder, "scores_by_diameter")
    return folder


class Page(HTMLParser):
    """Elements, their attributes, and whether each one that is opened is closed."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.faults = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def words(text):
    """What a reader sees, without markup and images."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", re.sub(r'src="data:[^"]*"', "", text))).split())


def test_page_is_whole_and_asks_for_nothing(results):
    text = report.write_report("made_up").read_text()
    page = Page(text)
    assert page.faults == [] and page.open == []
    addresses = [value for _, attrs in page.elements for name, value in attrs.items() if name in ("src", "href")]
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert "@@" not in text and not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(ids)
    assert [attrs["content"] for tag, attrs in page.elements if attrs.get("name") == "viewport"] == [
        "width=device-width, initial-scale=1"
    ]


def test_every_image_has_its_alt_text(results):
    write_figure(results, "something_new")
    images = [attrs for tag, attrs in Page(report.write_report("made_up").read_text()).elements if tag == "img"]
    assert [attrs["alt"] for attrs in images] == [
        captions.FIGURES["scores_by_diameter"].alt,
        captions.figure_caption("something_new").alt,
    ]


def test_every_claim_stands_first_and_in_the_table_that_is_written(results):
    text = report.write_report("made_up").read_text()
    claims = pd.read_csv(results / "tables/claims.csv")
    assert set(claims["claim"]) == {claim.id for claim in read_claims()}
    seen = words(text)
    for claim in read_claims():
        assert " ".join(claim.statement.split()) in seen
    assert text.index('id="claims"') < text.index('id="figures"') < text.index('id="tables"')
    assert "10.00 (" not in seen and "11.00 (8.52 to 13.48; 3 seeds)" in seen  # 10, 11, 12 points


def test_missing_parts_are_named(results):
    seen = words(report.write_report("made_up").read_text())
    for stem in set(captions.EXPECTED_TABLES) - {"scores_by_case"}:
        assert f"{captions.TABLES[stem]} Not made." in seen
    for stem in set(captions.EXPECTED_FIGURES) - {"scores_by_diameter"}:
        assert f"{captions.FIGURES[stem].title}: not made." in seen
    assert "to turn: not made" in seen and "the runs themselves are not in this copy" in seen


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        (["mini_0008"], "Synthetic data: CTs and airways are phantoms"),
        (["mini_0008", "patient"], "Some cases are synthetic"),
        (["patient"], "are not phantoms"),
    ],
)
def test_synthetic_data_are_called_so(home, cases, told):
    write_scores(home / "results/made_up", VARIANTS, score, cases=cases)
    assert told in words(report.write_report("made_up").read_text())


def test_what_is_in_the_tables_is_text(results):
    table = pd.DataFrame({"<i>x</i>": ["<script>bad()</script>", "</table>"]})
    table.to_csv(results / "tables/odd.csv", index=False)
    text = report.write_report("made_up").read_text()
    assert "<script>bad()" not in text and Page(text).faults == []


def test_an_empty_table_is_no_error(results):
    (results / "tables/effects.csv").write_text("\n")
    assert "Nothing to show." in words(report.write_report("made_up").read_text())


def test_long_tables_are_folded(results):
    pd.DataFrame({"n": range(report.FEW_ROWS + 1)}).to_csv(results / "tables/longer.csv", index=False)
    assert f"<summary>{report.FEW_ROWS + 1} rows</summary>" in report.write_report("made_up").read_text()


def test_provenance_of_the_runs(home):
    folder = write_runs(home, VARIANTS, seeds=[0, 1], score=score)
    run = folder / "runs/final_dice_1"
    (run / "scores.csv").unlink()
    (run / "failed.txt").write_text("out of memory")
    seen = words(report.write_report("made_up").read_text())
    assert "final_dice_1: failed (out of memory)" in seen
    assert "final_dice_0 done" in seen and "c" * 9 in seen and "c" * 10 not in seen and "d" * 12 in seen
    assert "encoder_weight 1.0" in seen and "command airwaylib report made_up" in seen


def test_runs_that_cannot_be_compared_are_a_note(home):
    folder = write_runs(home, VARIANTS, seeds=[0])
    path = folder / "runs/final_dice_0/provenance.json"
    study.write_json(path, study.read_json(path) | {"data": "e" * 64})
    assert "were trained on other stores" in words(report.write_report("made_up").read_text())


def test_presets_that_were_not_run_are_named(results):
    assert re.search(
        r"preset paper of study\.yaml \(\d+ variants\): not run", words(report.write_report("made_up").read_text())
    )


def test_variants_of_the_preset_without_scores_are_named(home):
    write_scores(home / "results/quick", VARIANTS, score)
    seen = words(report.write_report("quick").read_text())
    assert "of variants of the preset: both_dice, final_general_union, decoder_general_union" in seen
    assert "airwaylib reproduce quick" in seen


def test_the_tree_is_put_in_with_its_plotly(results):
    (results / "figures/tree.html").write_text('<html><body><div id="tree">TREE</div></body></html>')
    text = report.write_report("made_up").read_text()
    assert '<div id="tree">TREE</div>' in text and text.count("<body>") == 1 and "to turn: " not in text


def test_svg_unless_it_is_large(tmp_path):
    write_figure(tmp_path, "one")
    stem = tmp_path / "figures/one"
    assert report.image(stem).startswith("data:image/svg+xml;base64,")
    with Path(f"{stem}.svg").open("a") as file:
        file.write(" " * report.LARGE_SVG)
    assert report.image(stem).startswith("data:image/png;base64,")
    Path(f"{stem}.png").unlink()
    assert report.image(stem).startswith("data:image/svg+xml;base64,")


def test_a_page_that_would_be_too_large_is_an_error(results, monkeypatch):
    monkeypatch.setattr(report, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match=r"report\.html: .* MB are too much"):
        report.write_report("made_up")
    assert not (results / "report.html").exists()


def test_the_command(results):
    done = CliRunner().invoke(app, ["report", "made_up"])
    assert done.exit_code == 0 and done.output.strip() == str(results / "report.html")
    assert isinstance(CliRunner().invoke(app, ["report", "no_such"]).exception, InputError)


def test_the_same_study_gives_the_same_page(results):
    assert report.write_report("made_up").read_bytes() == report.write_report("made_up").read_bytes()
