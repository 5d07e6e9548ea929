"""The report: one page of a made-up study, which asks the network for nothing and tells what is missing."""

import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from synthetic_maps import write_study
from synthetic_study import write_runs
from synthetic_tables import write_figure, write_scores
from typer.testing import CliRunner

from airwaylib.errors import InputError
from airwaystudy import home as study
from airwaystudy.claims.ledger import read_claims
from airwaystudy.cli import app
from airwaystudy.report import report

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = {
    "final_dice": {"supervision": "final", "loss": "dice"},
    "both_general_union": {"supervision": "both", "loss": "general_union"},
}
EFFECT = {"factor": "loss", "from": "dice", "to": "general_union", "held": "supervision both", "seeds": 3, "cases": 2}


def score(variant, seed, case):
    more = 10 + seed if variant == "both_general_union" else 0
    return {"td": 80.0 + more, "bd": 60.0 + more, "dsc": 85.0, "precision": 90.0, "fpr": 0.05}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A project's root, for this process and for the notebook's kernel."""
    home = tmp_path_factory.mktemp("home")
    for name in ("claims.yaml", "study.yaml"):
        shutil.copy(ROOT / name, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "HOME", home)
        patch.setenv("AIRWAYLIB_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def results(home):
    """Runs, one of which failed, tables, gradient measures, two figures, a tree, and an explorer's page."""
    folder = write_runs(home, VARIANTS, score=score)
    run = folder / "runs/final_dice_1"
    (run / "scores.csv").unlink()
    (run / "failed.txt").write_text("out of <memory>")
    write_scores(folder, VARIANTS, score)
    rows = [
        EFFECT
        | {"metric": metric, "difference": difference, "low": low, "high": high, "from_variant": "a", "to_variant": "b"}
        for metric, difference, low, high in [("td", 11.0, 8.5, 13.5), ("precision", -2.0, -3.0, -1.0)]
    ]
    study.write_csv(folder / "tables/effects.csv", pd.DataFrame(rows))
    reached = pd.DataFrame({"variant": "final_dice", "seed": [0, 1, 2], "precision": 60, "td": [71.0, None, 73.0]})
    study.write_csv(folder / "tables/td_at_precision.csv", reached)
    write_study(folder / "gradients", size=16)
    shares = {"loss": "dice", "supervision": "final", "seed": 0, "epoch": [1, 1, 5, 5], "layer": ["ec1", "dc6"] * 2}
    study.write_csv(folder / "gradients/layers.csv", pd.DataFrame(shares | {"erosion": [0.5, 0, 0.25, 0]}))
    for stem in ("scores_by_diameter", "origin"):
        write_figure(folder, stem)
    (folder / "figures/tree.html").write_text('<html><body><div id="tree">TREE</div></body></html>')
    (folder / "gradient_explorer.html").write_text("the explorer")
    return folder


@pytest.fixture(scope="module")
def text(results):
    return report.write_report("made_up").read_text()


class Page(HTMLParser):
    """Elements with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


def words(text):
    """What a reader sees, without markup, scripts and images."""
    text = re.sub(r"<(script|style).*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", re.sub(r'src="data:[^"]*"', "", text))).split())


def test_page_asks_for_nothing(text):
    elements = Page(text).elements
    assert {attrs["src"].partition(":")[0] for _, attrs in elements if "src" in attrs} == {"data"}
    linked = {attrs["href"] for tag, attrs in elements if tag == "link"}
    assert linked == {"data:,"}
    followed = {
        attrs["href"] for tag, attrs in elements if tag == "a" and "href" in attrs
    }  # by a reader, not by the page
    assert {address for address in followed if not address.startswith("https://itables.org/")} == {
        "gradient_explorer.html"
    }
    assert not re.search(r"MathJax|require\.min\.js|cdnjs|unpkg|@import|url\(http", text)
    assert [attrs["content"] for tag, attrs in elements if attrs.get("name") == "viewport"] == [
        "width=device-width, initial-scale=1"
    ]


def test_no_code_is_on_the_page(text):
    assert "import pandas" not in text and "In [" not in words(text) and "Traceback" not in text


def test_what_was_found_comes_first_then_scores_claims_figures_tree_and_provenance(text):
    titles = re.findall(r"<h[23][^>]*>([^<]*)", text)
    assert titles == [
        *("What was found", "Scores", "Claims", "Figures", "The tree of a held-out case", "Provenance", "Appendix"),
        *("What was not run, and notes", "Runs", "Tables", "More figures"),
    ]


def test_findings_are_printed_from_the_tables(text):
    seen = words(text)
    assert "loss, dice to general union (supervision both): tree length +11 points (8 to 14), precision −2." in seen
    assert "at least 60 %, final dice finds 71 to 73 % (2 of 3 seeds reach that precision) of the tree's length" in seen
    assert "dice, final: 25 % at ec1, most at ec1 (25 %)." in seen
    assert "5 of 6 runs are done (failed: final_dice_1)." in seen


def test_scores_are_means_over_the_seeds(text):
    assert "91.0 (90.0 to 92.0)" in text and "71.0 (70.0 to 72.0)" in text and "80.0 (80.0 to 80.0)" in text


def test_every_claim_is_on_the_page_and_in_the_table_that_is_written(text, results):
    claims = pd.read_csv(results / "tables/claims.csv")
    assert set(claims["claim"]) == {claim.id for claim in read_claims()}
    seen = words(text)
    for claim in read_claims():
        assert " ".join(claim.statement.split()) in seen
    assert f"{len(read_claims())} claims: " in seen


def test_every_image_has_its_alt_text_and_every_caption_calls_the_data_synthetic(text):
    images = [attrs for tag, attrs in Page(text).elements if tag == "img"]
    assert len(images) == 2 and all(len(attrs["alt"]) > 20 for attrs in images)
    captions = re.findall(r'<(?:figcaption|p class="caption")>(.*?)</(?:figcaption|p)>', text, re.DOTALL)
    assert len(captions) > 5 and all("ynthetic" in caption for caption in captions)
    assert "Synthetic data: CTs and airways are phantoms." in words(text)


def test_missing_parts_and_runs_are_told(text):
    seen = words(text)
    assert "What one change of one factor does: not made." in seen
    assert "Not made: by_seed" in seen
    assert "final_dice_1: failed (out of <memory>)" in seen and "out of <memory>" not in text
    assert re.search(r"preset paper of study\.yaml \(\d+ variants\): not run", seen)


def test_explorer_is_linked_at_the_top_and_the_tree_put_in(text):
    assert 0 < text.index('href="gradient_explorer.html"') < text.index("What was found")
    assert text.count('<div id="tree">TREE</div>') == 1 and text.count("<body>") == 1


def test_provenance_names_code_data_and_processor(text):
    seen = words(text)
    for fact in ("runs code of commit " + "c" * 40, "SHA-256 " + "d" * 64, "CPU a CPU", "instruction set AVX2"):
        assert fact in seen
    assert "instruction set bounded by ATEN_CPU_CAPABILITY=avx2" in seen
    assert "torch threads 1" in seen and "command airwaylib report made_up" in seen


@pytest.fixture(scope="module")
def bare(home):
    """The page of a study without runs and figures, of patients."""
    write_scores(home / "results/bare", VARIANTS, score, cases=["patient"])
    return report.write_report("bare").read_text()


def test_study_without_runs_has_a_page(bare):
    seen = words(bare)
    assert "the runs themselves are not in this copy" in seen and "was not made (figures/tree.html)" in seen
    assert "gradient_explorer" not in bare
    assert "are not phantoms" in seen and "Synthetic" not in seen


def test_misspelt_study_is_refused(home, results):
    done = CliRunner().invoke(app, ["report", "made_upp"])
    assert isinstance(done.exception, InputError)
    assert "no such study; there are " in str(done.exception) and "did you mean made_up?" in str(done.exception)
    assert not (home / "results/made_upp").exists()


def test_study_without_a_run_or_a_table_is_refused(home):
    (home / "results/empty/tables").mkdir(parents=True)
    done = CliRunner().invoke(app, ["report", "empty"])
    assert isinstance(done.exception, InputError) and "no finished run and no table" in str(done.exception)


def test_fault_that_the_notebook_meets_is_one_line(home, results):
    faulty = (home / "claims.yaml").read_text()
    (home / "claims.yaml").write_text("a: b")
    with pytest.raises(InputError, match=r"claims\.yaml: must be a list of claims"):
        report.write_report("made_up")
    (home / "claims.yaml").write_text(faulty)
