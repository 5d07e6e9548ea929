"""A study as one page: claims, tables, figures, a tree to turn, and where it all comes from. No network is needed.

Everything is read from results/<study>/: the tables and figures that are committed are enough. What is not there is
named as not made; what was not run is named as not run.
"""

import base64
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaystudy import home
from airwaystudy.claims import ledger
from airwaystudy.claims.measures import SCORES, Tables, read_table
from airwaystudy.plan import presets as plan
from airwaystudy.plan.runs import FACTORS, StudyRuns, collect
from airwaystudy.report.captions import (
    EXPECTED_FIGURES,
    EXPECTED_TABLES,
    FIGURES,
    TABLES,
    figure_caption,
    table_caption,
)
from airwaystudy.report.html_tables import compact, html_table

MOST_BYTES = 20_000_000
LARGE_SVG = 300_000  # bytes; above, the PNG is the smaller one of a pair
FEW_ROWS = 16  # a longer table is folded
SETTINGS = (*FACTORS, "parameters", "steps", "seeds", "cases", "convention", "status", "reason", "device")
SHORT = {"commit": 9, "data": 12}  # characters of a checksum that are shown
DATA = {
    "synthetic": "Synthetic data: CTs and airways are phantoms, not patients'. What holds here need not hold "
    "on real CT.",
    "mixed": "Some cases are synthetic (phantoms), not patients'.",
    "real": "The held-out cases are not phantoms; data/README.md tells where public data come from.",
    "none": "No table of this study names its cases.",
}


def write_report(name: str, path: str | Path | None = None) -> Path:
    """Evaluate the claims (tables/claims.csv) and write the page, results/<name>/report.html or `path`; returns it.

    Raises
    ------
    InputError
        No such study, a fault in claims.yaml, or a page of more than `MOST_BYTES`.
    """
    claims = ledger.write_ledger(name)
    text = page(name, claims)
    size = len(text.encode())
    path = Path(path or home.results(name) / "report.html")
    if size > MOST_BYTES:
        raise InputError(f"{path}: {size / 1e6:.0f} MB are too much for one page; figures of 10 MB in all fit")
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def page(name: str, claims: pd.DataFrame) -> str:
    """The page as text, with `claims` as `ledger.evaluate` returns them."""
    folder, runs, why = home.results(name), *runs_of(name)
    kind = ledger.kind_of_data(Tables(folder).cases)
    parts = {
        "TITLE": escape(f"Study {name}: report"),
        "STUDY": escape(name),
        "DATA": escape(DATA[kind]),
        "CLAIMS": claims_section(claims),
        "NOTES": notes_section([*why, *(runs.notes if runs else []), *not_run(name)]),
        "TABLES": "\n".join(tables_section(folder)),
        "FIGURES": "\n".join(figures_section(folder, kind)),
        "TREE": tree_section(folder / "figures" / "tree.html", kind),
        "PROVENANCE": "\n".join(provenance_section(name, runs)),
    }
    text = files("airwaystudy.report").joinpath("report.html.in").read_text(encoding="utf-8")
    for key, part in parts.items():  # one after the other: no part holds another one's sign
        text = text.replace(f"@@{key}@@", part)
    return text


def preset_of(name: str) -> plan.Preset | None:
    """The preset of study.yaml that makes this study, if one does."""
    try:
        return plan.read_preset(name)
    except InputError:
        return None


def runs_of(name: str) -> tuple[StudyRuns | None, list[str]]:
    """The study's runs, of its preset or those there are; or None and why."""
    preset = preset_of(name)
    if not (home.results(name) / "runs").is_dir():
        return None, ["the runs themselves are not in this copy: tables and figures were made where they are"]
    try:
        return collect(name, list(preset.settings_by_run()) if preset else None), []
    except InputError as error:
        return None, [str(error).replace(f"{home.HOME}/", "")]


def not_run(name: str) -> list[str]:
    """Variants of the study's preset without scores, and presets of study.yaml without results."""
    preset, notes, scores = preset_of(name), [], home.results(name) / SCORES
    if preset is not None:
        table = read_table(scores) if scores.is_file() else pd.DataFrame()
        missing = [one for one in preset.variants if one not in set(table.get("variant", []))]
        notes += [f"no scores in {SCORES} of variants of the preset: {', '.join(missing)}"] if missing else []
    presets = yaml.safe_load(plan.PATH.read_text()) if plan.PATH.is_file() else {}
    for other in presets:
        if other != name and not (home.results(other) / SCORES).is_file():
            notes.append(f"preset {other} of study.yaml ({len(plan.all_variants(presets[other]))} variants): not run")
    return notes


# ------------------------------------------------------------------------------------------------------------ sections


def claims_section(claims: pd.DataFrame) -> str:
    """Verdicts, a row a claim, and the measures behind them."""
    by_claim = claims.drop_duplicates("claim")
    counts = by_claim["verdict"].value_counts()
    words = ", ".join(f"{word} {counts[word]}" for word in ledger.VERDICTS if word in counts)
    verdicts = by_claim[["statement", "verdict", "paper", "source"]].rename(columns={"paper": "published"})
    measures = claims[claims["measure"] != ""]
    measures = measures.assign(
        claim=measures["claim"].str.replace("_", " "),
        here=[ledger.number_in_words(row) for row in measures.to_dict("records")],
    )[["claim", "says", "here", "expected", "measure", "note"]]
    return (
        f"<p>{len(by_claim)} statements: {escape(words)}. A claim holds if all its measures support it, partly if "
        "some do and none contradicts it; it is mixed if some support and some contradict it, fails if some contradict "
        "and none supports it, and is open if none says anything. Nothing is corrected for the number of measures. "
        "A measure decides if Student's 95 % interval over the seeds lies on one side of what is expected; one seed "
        "has no interval. "
        "Sources: [A] the authors, [B] a secondary source, [C] our choice, [D] derived here.</p>"
        + html_table(verdicts, "The ledger: each statement with its verdict", "verdict")
        + "<details open><summary>The measures behind the verdicts</summary>"
        + html_table(measures, "Each claim's measures: value here, with interval and seeds", "says")
        + "</details>"
    )


def notes_section(notes: list[str]) -> str:
    """A list, or that there is nothing to note."""
    if not notes:
        return "<p>Every run that was planned is done, by the code that made this page.</p>"
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def tables_section(folder: Path) -> Iterator[str]:
    """Every table of the study but the ledger, those with captions first; and the ones that are not made."""
    stems = [path.stem for path in sorted(folder.glob("tables/*.csv")) if path.stem != "claims"]
    order = list(TABLES)
    for stem in sorted(stems, key=lambda stem: order.index(stem) if stem in order else len(order)):
        path, caption = folder / "tables" / f"{stem}.csv", table_caption(stem)
        table = shortened(read_table(path)) if stem == "runs" else read_table(path)
        if table.empty:
            yield f"<h3>{escape(stem)}</h3><p>{escape(caption)} Nothing to show.</p>"
            continue
        table, same = without_constants(table)
        text = html_table(compact(table), f"{caption} {same}All columns: tables/{stem}.csv")
        if len(table) > FEW_ROWS:
            text = f"<details><summary>{len(table)} rows</summary>{text}</details>"
        yield f"<h3>{escape(stem)}</h3>{text}"
    for stem in EXPECTED_TABLES:
        if stem not in stems:
            yield f"<h3>{escape(stem)}</h3><p>{escape(table_caption(stem))} <b>Not made.</b></p>"


def without_constants(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The table without settings that all of its rows share, and these in words."""
    constant = [
        name for name in SETTINGS if name in table and len(table) > 1 and table[name].nunique(dropna=False) == 1
    ]
    values = (f"{name.replace('_', ' ')} {table[name].iloc[0]}" for name in constant if pd.notna(table[name].iloc[0]))
    words = ", ".join(values)
    return table.drop(columns=constant), f"In all rows: {words}. " if words else ""


def shortened(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its checksums cut."""
    cut = {
        name: [value[:size] if isinstance(value, str) else "" for value in table[name]]
        for name, size in SHORT.items()
        if name in table
    }
    return table.assign(**cut)


def figures_section(folder: Path, kind: str) -> Iterator[str]:
    """Every figure of the study, those with captions first; and the ones that are not made."""
    stems = {path.stem for path in folder.glob("figures/*") if path.suffix in (".png", ".svg")}
    order = list(FIGURES)
    for stem in sorted(stems, key=lambda stem: (order.index(stem) if stem in order else len(order), stem)):
        caption = figure_caption(stem)
        synthetic = " Synthetic CT." if kind == "synthetic" and caption.of_data else ""
        yield (
            f'<figure><img src="{image(folder / "figures" / stem)}" alt="{escape(caption.alt)}">'
            f"<figcaption><b>{escape(caption.title)}.</b>{synthetic} {escape(caption.alt)}"
            + (f" From {escape(caption.maker)}." if caption.maker else "")
            + "</figcaption></figure>"
        )
    for stem in EXPECTED_FIGURES:
        if stem not in stems:
            yield f"<p>{escape(figure_caption(stem).title)}: <b>not made.</b></p>"


def image(stem: Path) -> str:
    """A figure as a data address: its SVG, sharp at any size, unless there is a PNG and the SVG is large."""
    svg, png = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    path = svg if svg.is_file() and (svg.stat().st_size < LARGE_SVG or not png.is_file()) else png
    kind = "svg+xml" if path is svg else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def tree_section(path: Path, kind: str) -> str:
    """What stands in the body of figures/tree.html, as `figures.tree_html` writes it: plotly.js and the tree."""
    if not path.is_file():
        return (
            "<p>The airway tree of a held-out case, to turn: <b>not made</b> (figures/tree.html is not committed).</p>"
        )
    body = path.read_text(encoding="utf-8").partition("<body>")[2].rpartition("</body>")[0]
    which = "a synthetic case" if kind == "synthetic" else "a held-out case"
    return (
        f'<figure><div class="tree" role="group" aria-label="Airway tree of {which} in 3-D">{body}</div><figcaption>'
        f"<b>The tree of {which}.</b> Drag to turn it, scroll or pinch to come closer; point at a branch for its "
        "numbers. Detected branches are blue and solid, missed ones orange and dotted.</figcaption></figure>"
    )


def provenance_section(name: str, runs: StudyRuns | None) -> Iterator[str]:
    """Commit, command, and each run's code, machine, data and time; versions and settings."""
    commit, dirty = home.git("rev-parse", "HEAD"), home.git("status", "--porcelain", "--untracked-files=no")
    command = f"airwaylib reproduce {name}" if preset_of(name) else f"airwaylib report {name}"
    facts = {"this page": f"code of commit {commit or 'unknown'}" + (", with changes not committed" if dirty else "")}
    facts |= {"command": f"{command}; the page alone: airwaylib report {name}"}
    if runs is None:
        yield definitions(facts)
        yield "<p>Where each run comes from stands in the table runs, if there is one.</p>"
        return
    origins = {run: home.read_json(home.run_folder(name, run) / "provenance.json") for run in runs.configs}
    versions = {", ".join(f"{k} {v}" for k, v in origin.get("versions", {}).items()) for origin in origins.values()}
    facts |= {"versions": "; ".join(sorted(filter(None, versions))) or "not noted"}
    facts |= {"machines": "; ".join(sorted({origin.get("platform", "not noted") for origin in origins.values()}))}
    yield definitions(facts)
    table = runs.table.assign(dirty=[origins[run]["dirty"] if run in origins else None for run in runs.table["run"]])
    wanted = ["run", "status", "reason", "commit", "dirty", "device", "data", "parameters", "training_seconds"]
    table = shortened(table[[column for column in wanted if column in table]])
    yield html_table(table.rename(columns={"data": "data's SHA-256"}), "Every run: code, machine, data, seconds")
    yield settings_part(runs)


def settings_part(runs: StudyRuns) -> str:
    """The settings that all runs share, and a table of those that differ."""
    settings = pd.DataFrame([config.model_dump() for config in runs.configs.values()]).astype(object)
    texts = settings.map(
        lambda value: (
            ", ".join(value) if isinstance(value, list) and value and isinstance(value[0], str) else str(value)
        )
    )
    shared = [column for column in texts if texts[column].nunique() == 1]
    differing = texts[["run", *(column for column in texts if column not in (*shared, "run"))]]
    return (
        "<details><summary>Settings of the runs</summary>"
        + html_table(differing, "Settings that differ")
        + definitions({column: texts[column].iloc[0] for column in shared})
        + "</details>"
    )


def definitions(facts: dict[str, Any]) -> str:
    """Names and what they stand for, as a list."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items()) + "</dl>"
