"""README, docs/ and the model card: their numbers are the reference results', their links, code and commands work."""

import importlib.util
import re
import shlex
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import typer
import yaml

from airwaystudy.cli import app
from airwaystudy.plan.presets import read_preset

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / name
    for name in ("README.md", "data/README.md", "profiles/README.md", "airwaylib/inference/weights/README.md")
]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def load_script():
    """scripts/make_docs.py as a module."""
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_docs = load_script()


@pytest.fixture(params=PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def page(request):
    return request.param


# ------------------------------------------------------------------------------------------------------ generated text


@pytest.mark.parametrize("path", make_docs.documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_numbers_are_those_of_the_reference_results(path):
    text = path.read_text()
    assert make_docs.rewritten(text) == text, "run python scripts/make_docs.py"


def test_everything_generated_is_shown():
    shown = {name for path in make_docs.documents() for name in re.findall(r"<!-- (\w+) -->", path.read_text())}
    assert shown == set(make_docs.GENERATED)


def test_text_between_markers_is_replaced_and_the_rest_stays(monkeypatch):
    monkeypatch.setattr(make_docs, "GENERATED", {"n": lambda: "3", "rows": lambda: "| a |"})
    text = "in <!-- n -->2<!-- /n --> min\n\n<!-- rows -->\nold\n<!-- /rows -->\nend"
    assert make_docs.rewritten(text) == (
        "in <!-- n -->3<!-- /n --> min\n\n<!-- rows -->\n\n| a |\n\n<!-- /rows -->\nend"
    )


@pytest.mark.parametrize("text", ["<!-- nothing --><!-- /nothing -->", "<!-- ledger --> and no end"])
def test_a_marker_that_is_unknown_or_open_is_an_error(text):
    with pytest.raises(SystemExit, match="make_docs"):
        make_docs.rewritten(text)


def test_scores_are_means_with_the_lowest_and_the_highest_seed():
    rows = pd.DataFrame({"variant": ["b", "b", "a"], "td": [1, 2, 7.25], "bd": 50, "precision": [0, 1, 2], "dsc": 3.0})
    assert make_docs.scores_by_variant(rows) == {
        "b": ["2", "1.5 (1.0 to 2.0)", "50.0 (50.0 to 50.0)", "0.5 (0.0 to 1.0)", "3.0 (3.0 to 3.0)"],
        "a": ["1", "7.2", "50.0", "2.0", "3.0"],
    }


def test_effects_are_bold_where_the_interval_excludes_zero():
    scores = ["td", "bd", "precision", "dsc"]
    numbers = {"difference": [1, -2, 3, 4], "low": [0.5, -3, -1, None], "high": [1.5, -1, 7, None]}
    effects = pd.DataFrame({"from_variant": "a", "to_variant": "b", "metric": scores} | numbers)
    row = make_docs.effects_table(effects).splitlines()[2]
    assert row == "| `a` | `b` | **1.0 (0.5 to 1.5)** | **-2.0 (-3.0 to -1.0)** | 3.0 (-1.0 to 7.0) | 4.0 |"


def reference(**tables):
    """In place of `make_docs.read`: tables by their file's stem."""
    return lambda study, name: tables[Path(name).stem]


@pytest.mark.parametrize(
    ("at_60", "words"),
    [
        ([50, 52, 54, 56], "Most of the gain in tree length is a choice of threshold"),  # 4 of the 40 points are left
        ([50, 52, 80, 82], "Some of the gain in tree length is a choice of threshold"),  # 30 of them
        ([50, 52, 92, None], "None of the gain in tree length is a choice of threshold"),  # 41
        ([50, 52, None, None], "At 60 % precision Dice"),
    ],
)
def test_the_share_of_the_threshold_is_said_as_the_numbers_have_it(monkeypatch, at_60, words):
    variants = ["final_dice"] * 2 + ["both_general_union"] * 2
    by_seed = pd.DataFrame({"variant": variants, "td": [50, 50, 90, 90]})
    at = pd.DataFrame({"variant": variants, "precision": 60, "td": at_60})
    monkeypatch.setattr(make_docs, "read", reference(by_seed=by_seed, td_at_precision=at))
    text = make_docs.threshold_share()
    assert text.startswith(words) and "Dice on the last block finds 50 to 52 %" in text
    assert ("1 of 2 seeds" in text) == (at_60.count(None) == 1)
    assert ("General Union on both groups never gets there" in text) == (at_60.count(None) == 2)


def test_claims_are_counted_by_verdict(monkeypatch):
    said = ["supported", "contradicted", "contradicted", "open", "supported", "not run", "not run"]
    claims = pd.DataFrame({"claim": make_docs.GRADIENT_CLAIMS, "verdict": said})
    monkeypatch.setattr(make_docs, "read", reference(claims=claims))
    assert make_docs.claims_in_words().startswith(
        "Of the abstract's 7 claims about gradients, here: 2 supported, 2 contradicted, 1 open, 2 not run "
    )


# -------------------------------------------------------------------------------------------------------------- README


def test_readme_is_short_and_begins_with_a_command():
    assert len(README.encode()) <= 8000
    assert "`make study`" in "\n".join(README.splitlines()[:10])
    tables = re.findall(r"^\|---.*\n((?:\|.*\n)+)", README.split("## Layout")[0], re.MULTILINE)
    assert [len(rows.splitlines()) for rows in tables] == [4]
    assert README.count("<img ") + README.count("![") == 1


def test_readmes_python_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["loss"].ndim == 0 and 0 < names["loss"].item() < 1
    assert names["weight"].min().item() == pytest.approx(1 / 9)  # alpha / (1 - alpha) at the farthest voxel
    airway, background, *_ = names["gradients"]["ec1"]
    assert airway.shape == background.shape == (1, 4, 32, 32, 32)


def test_readme_names_every_room():
    for package in ("airwaylib", "airwaystudy"):
        (line,) = [line for line in README.splitlines() if line.startswith(f"| `{package}/`")]
        rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert rooms == set(re.findall(r"`(\w+)`", line))


def test_presets_are_described_as_study_yaml_has_them():
    quick, ablations = read_preset("quick"), read_preset("ablations")
    assert f"trains {len(quick.settings_by_run())} networks" in README
    results = (ROOT / "docs/results.md").read_text()
    (steps,) = set(pd.read_csv(ROOT / "results/reference/quick/tables/ablation.csv")["steps"])
    assert f"{len(quick.variants)} variants, {len(quick.seeds)} seeds, {steps} steps each" in results
    assert f"{len(ablations.variants)} variants as small as those of `quick`, {len(ablations.seeds)} seeds" in results


# ---------------------------------------------------------------------------------------------- links, commands, paths


class Images(HTMLParser):
    """Sources and alternative texts of the <img> elements."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append((dict(attrs)["src"], dict(attrs).get("alt", "")))


def images(text):
    """(source, alternative text) of every image of a page."""
    parser = Images()
    parser.feed(text)
    return parser.found + [(src, alt) for alt, src in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)]


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(page):
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^) ]+)\)", page.read_text())
    for link in [*links, *(src for src, _ in images(page.read_text()))]:
        if link.startswith(("https://", "http://")):
            continue
        target, _, anchor = link.partition("#")
        found = page if not target else page.parent / target
        assert found.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(found), f"{page.name}: no heading for {link}"


def test_images_are_described(page):
    assert [src for src, alt in images(page.read_text()) if len(alt) < 20] == []


def test_no_page_has_a_path_of_somebodys_machine(page):
    assert re.findall(r"(?<![\w.])/(?:home|work|root|tmp|Users)/\S*", page.read_text()) == []


def commands(text):
    """The airwaylib commands of a page's code blocks, as lists of words, without comments."""
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    return [shlex.split(line[line.index("airwaylib ") :], comments=True) for line in lines if "airwaylib " in line]


def test_commands_and_their_options_exist(page):
    known = typer.main.get_command(app).commands
    for _, name, *words in commands(page.read_text()):
        assert name in known, f"{page.name}: airwaylib {name}"
        options = {
            option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        unknown = {word for word in words if re.match(r"--?[a-z]", word)} - options
        assert unknown == set(), f"{page.name}: airwaylib {name} has no {', '.join(unknown)}"


def test_files_that_are_named_exist(page):
    text = re.sub(r"\S*[A-Z]{3,}\S*", "", page.read_text())  # NAME, ROOT, ... stand for something
    named = re.findall(r"(?<![\w/.])((?:notebooks|benchmarks|recipes|profiles|scripts|tests|docs)/[\w/.]+\.\w+)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


# ------------------------------------------------------------------------------------------------------------ citation


def test_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == version("airwaylib")
    (paper,) = citation["references"]
    assert (paper["year"], paper["volume"], paper["issue"], paper["start"]) == (2021, 40, 9, 2452)
