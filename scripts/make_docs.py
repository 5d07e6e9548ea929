"""Write the numbers of README.md, docs/ and the model card, from the committed reference results.

    python scripts/make_docs.py           # after results/reference/ or a setting has changed
    python scripts/make_docs.py --check   # changes nothing; status 1 and the names of the files that are out of date

A text between `<!-- NAME -->` and `<!-- /NAME -->` is what the function NAME of this file returns. All else is typed.
"""

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

import nbformat
import pandas as pd
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
SCORES = {"td": "tree length detected", "bd": "branches detected", "precision": "precision", "dsc": "DSC"}
BASELINE, PROPOSED = "final_dice", "both_general_union"
SHORT = {  # rows of the README's table
    "final_dice": "last block, Dice",
    "both_dice": "both groups, Dice",
    "final_general_union": "last block, General Union",
    "both_general_union": "both groups, General Union (the paper's)",
}
GRADIENT_CLAIMS = (  # those of the abstract about gradients
    "a_small_ratio_erodes",
    "a_large_ratio_dilates",
    "erosion_accumulates",
    "group_supervision_feeds_shallow_layers",
    "general_union_balances_size",
    "background_erodes_small_airways",
    "accumulated_erosion_limits_learning",
)
GENERATED: dict[str, Callable[[], str]] = {}


def generated(function: Callable[[], str]) -> Callable[[], str]:
    """Register a function that returns the text between the markers of its name."""
    GENERATED[function.__name__] = function
    return function


# ------------------------------------------------------------------------------------------------- reading and wording


def read(study: str, name: str) -> pd.DataFrame:
    """A reference table with empty cells as empty strings where the column holds words."""
    table = pd.read_csv(REFERENCE / study / name)
    words = table.columns[table.dtypes.map(lambda kind: not pd.api.types.is_numeric_dtype(kind))]
    return table.assign(**{column: table[column].astype(object).fillna("") for column in words})


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""A Markdown table.

    Examples
    --------
    >>> print(table(["a", "b"], [["< 1", "x|y"]]))
    | a | b |
    |---|---|
    | &lt; 1 | x\|y |
    """
    lines = [[str(cell).replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in [header, *rows]]
    lines.insert(1, ["---"] * len(header))
    return "\n".join("|" + "|".join(row) + "|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in lines)


def span(values: Iterable[float], signed: bool = False, digits: int = 0) -> str:
    """Lowest and highest of some values, once if they are the same when rounded.

    Examples
    --------
    >>> span([40.3, 41.4]), span([-34.6, -33.6], signed=True), span([2.2, 2.4], signed=True)
    ('40 to 41', '−35 to −34', '+2')
    """
    values = [round(float(value), digits) + 0.0 for value in values]  # + 0.0: no minus zero
    ends = [
        f"{value:{'+' if signed and value else ''}.{digits}f}".replace("-", "−") for value in (min(values), max(values))
    ]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def mean_and_range(values: Sequence[float]) -> str:
    """Mean over the seeds, with the lowest and the highest seed if there are several.

    Examples
    --------
    >>> mean_and_range([1.0, 2.0, 6.0]), mean_and_range([4.0])
    ('3.0 (1.0 to 6.0)', '4.0')
    """
    mean = f"{sum(values) / len(values):.1f}"
    return f"{mean} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else mean


def scores_by_variant(by_seed: pd.DataFrame) -> dict[str, list[str]]:
    """Each variant's number of seeds and its cells for `SCORES`, in the order of the table."""
    return {
        str(variant): [str(len(rows)), *(mean_and_range(list(rows[score])) for score in SCORES)]
        for variant, rows in by_seed.groupby("variant", sort=False)
    }


def interval(row: pd.Series, digits: int = 1) -> str:
    """A value with its interval, if it has one; empty if there is no value.

    Examples
    --------
    >>> interval(pd.Series({"value": 0.08, "low": 0.02, "high": 0.14}), 2)
    '0.08 (0.02 to 0.14)'
    """
    if pd.isna(row["value"]):
        return ""
    ends = "" if pd.isna(row["low"]) else f" ({row['low']:.{digits}f} to {row['high']:.{digits}f})"
    return f"{row['value']:.{digits}f}{ends}"


# ----------------------------------------------------------------------------------------------------------- README.md


@generated
def outcome() -> str:
    """What came out of the quick study: three numbers, each with what limits it."""
    means = read("quick", "tables/by_seed.csv").groupby("variant")[list(SCORES)].mean()
    gains = [means.loc[f"{s}_general_union"] - means.loc[f"{s}_dice"] for s in ("final", "both")]
    all_effects = read("quick", "tables/effects.csv")
    branches = all_effects.query("metric == 'bd' and factor == 'loss'")
    effects = all_effects.query("metric == 'td' and factor == 'supervision'")
    seen = effects[(effects["low"] > 0) | (effects["high"] < 0)]
    same = "the seeds show no difference" if seen.empty else f"{len(seen)} of {len(effects)} intervals exclude zero"
    between = span([*branches["low"], *branches["high"]], signed=True)
    lines = [
        f"- **{span((gain['bd'] for gain in gains), signed=True)} points of branches detected** with General Union "
        f"in place of the usual Dice loss (95 % intervals over the seeds: {between}).",
        f"- **{span((gain['precision'] for gain in gains), signed=True)} points of precision.** {threshold_share()}",
        f"- **{span(effects['difference'], signed=True)} points of tree length** from one supervision to another: "
        f"{same}.",
    ]
    return "\n".join([*lines, "", claims_in_words()])


def threshold_share(precision: int = 60) -> str:
    """How much of the gain in tree length is left where thresholds give both variants the same precision."""
    rows = read("quick", "tables/td_at_precision.csv").query("precision == @precision")
    found = {name: list(part["td"]) for name, part in rows.groupby("variant")}
    reached = {name: [value for value in values if pd.notna(value)] for name, values in found.items()}
    whole = read("quick", "tables/by_seed.csv").groupby("variant")["td"].mean()
    gain = whole[PROPOSED] - whole[BASELINE]
    left = pd.Series(reached[PROPOSED], dtype=float).mean() - pd.Series(reached[BASELINE], dtype=float).mean()
    parts = [
        f"{loss} {finds(reached[name], len(found[name]))}"
        for name, loss in ((BASELINE, "Dice on the last block"), (PROPOSED, "General Union on both groups"))
    ]
    there = f"t {precision} % precision {' and '.join(parts)}."
    if pd.isna(left):
        return f"A{there}"
    share = "Most" if left < gain / 2 else "Some" if left < gain else "None"
    return f"{share} of the gain in tree length is a choice of threshold: a{there}"


def finds(reached: list[float], seeds: int) -> str:
    """Tree length detected by the seeds that reach a precision, and how many those are.

    Examples
    --------
    >>> finds([90.0, 92.0], 2), finds([90.0], 2), finds([], 2)
    ('finds 90 to 92 %', 'finds 90 % (1 of 2 seeds; the rest never get there)', 'never gets there')
    """
    few = "" if len(reached) == seeds else f" ({len(reached)} of {seeds} seeds; the rest never get there)"
    return f"finds {span(reached)} %{few}" if reached else "never gets there"


def claims_in_words() -> str:
    """How the ledger judges the abstract's claims about gradients."""
    claims = read("quick", "tables/claims.csv").set_index("claim")["verdict"][list(GRADIENT_CLAIMS)]
    counts = [f"{number} {verdict}" for verdict, number in claims.value_counts(sort=False).items()]
    return (
        f"Of the abstract's {len(claims)} claims about gradients, here: {', '.join(counts)} "
        "([every claim](docs/results.md#claims))."
    )


@generated
def short_scores() -> str:
    """The README's table: four variants, means over the seeds."""
    means = read("quick", "tables/by_seed.csv").groupby("variant")[list(SCORES)].mean()
    rows = [[words, *(f"{means.loc[name, score]:.0f}" for score in SCORES)] for name, words in SHORT.items()]
    return table(["supervised, loss", *SCORES.values()], rows)


@generated
def study_minutes() -> str:
    """Minutes of `make study`."""
    return measured("study")


@generated
def test_minutes() -> str:
    """Minutes of `make test`."""
    return measured("test")


@generated
def python_versions() -> str:
    """Versions of Python that the package takes, as pyproject.toml has them."""
    versions = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    taken = [f"3.{minor}" for minor in range(8, 30) if versions.contains(f"3.{minor}.5")]
    return taken[0] if len(taken) == 1 else f"{taken[0]} to {taken[-1]}"


@generated
def segment_seconds() -> str:
    """Seconds for the patients' CTs that were tried."""
    return span(read("chest", "tables/real_ct.csv")["seconds"])


def notebooks() -> list[tuple[str, str]]:
    """Title and path of each notebook in reading order: its executed copy where one is committed."""
    found, folder = [], ROOT / "notebooks"
    for path in [*sorted(folder.glob("[0-9]*.ipynb")), *sorted((folder / "appendix").glob("*.ipynb"))]:
        title = nbformat.read(path, 4).cells[0].source.splitlines()[0].lstrip("# ")
        copies = sorted(
            REFERENCE.glob(f"*/notebooks/**/{path.stem}*.ipynb"), key=lambda copy: ("quick" not in copy.parts, copy)
        )
        found.append((title, (copies or [path])[0].relative_to(ROOT).as_posix()))
    return found


@generated
def reading_order() -> str:
    """The notebooks as links, and the explorer's page, which is a link where it is committed."""
    page = "quick/gradient_explorer.html"
    explorer = f"[Gradient explorer](results/reference/{page}): download it, then open it"
    if not (REFERENCE / page).exists():
        explorer = f"Gradient explorer: `results/{page}`, which `make study` writes"
    return "\n".join(f"- {line}" for line in [*(f"[{title}]({path})" for title, path in notebooks()), explorer])


# ----------------------------------------------------------------------------------------------------- docs/results.md


@generated
def quick_scores() -> str:
    """Scores of the quick study's variants."""
    return scores_table("quick")


@generated
def ablation_scores() -> str:
    """Scores of the ablations' variants."""
    return scores_table("ablations")


def scores_table(study: str) -> str:
    """A row a variant: seeds, and each score's mean with its range over the seeds."""
    rows = scores_by_variant(read(study, "tables/by_seed.csv"))
    return table(["variant", "seeds", *SCORES.values()], ([f"`{name}`", *cells] for name, cells in rows.items()))


@generated
def quick_effects() -> str:
    """Every change of one factor in the quick study."""
    return effects_table(read("quick", "tables/effects.csv"))


@generated
def ablation_effects() -> str:
    """Changes of one factor in the ablations whose interval excludes zero in at least one score."""
    effects = read("ablations", "tables/effects.csv")
    shown = effects[effects["metric"].isin(SCORES) & ((effects["low"] > 0) | (effects["high"] < 0))]
    pairs = ["from_variant", "to_variant"]
    return effects_table(effects.merge(shown[pairs].drop_duplicates(), on=pairs))


def effects_table(effects: pd.DataFrame) -> str:
    """A row a pair of variants: difference and Student's 95 % interval of each score; bold if it excludes zero."""
    rows = []
    for (base, variant), pair in effects.groupby(["from_variant", "to_variant"], sort=False):
        cells = [f"`{base}`", f"`{variant}`"]
        for score in SCORES:
            row = pair[pair["metric"] == score].iloc[0].rename({"difference": "value"})
            cells.append(f"**{interval(row)}**" if row["low"] > 0 or row["high"] < 0 else interval(row))
        rows.append(cells)
    return table(["from", "to", *SCORES.values()], rows)


@generated
def at_precision() -> str:
    """Tree length detected where the threshold gives a certain precision: range over the seeds that reach it."""
    rows = read("quick", "tables/td_at_precision.csv")
    precisions = sorted(rows["precision"].unique())
    cells = []
    for variant, part in rows.groupby("variant", sort=False):
        line = [f"`{variant}`"]
        for precision in precisions:
            found = part.loc[part["precision"] == precision, "td"]
            reached = found.dropna()
            few = "" if len(reached) == len(found) else f" ({len(reached)} of {len(found)} seeds)"
            line.append(span(reached, digits=1) + few if len(reached) else "not reached")
        cells.append(line)
    return table(["variant", *(f"at {precision} % precision" for precision in precisions)], cells)


@generated
def ledger() -> str:
    """The claims with their verdicts in both studies."""
    quick, ablations = (read(study, "tables/claims.csv") for study in ("quick", "ablations"))
    there = ablations.set_index("claim")["verdict"]
    rows = (
        [row["statement"], row["section"], row["paper"], f"**{row['verdict']}**", there.get(row["claim"], "")]
        for _, row in quick.iterrows()
    )
    return table(["claim", "section", "published", "`quick`", "`ablations`"], rows)


@generated
def ledger_measures() -> str:
    """What decides each claim in the quick study."""
    rows = [
        [f"`{row['claim']}`", row["measure"] or row["note"], row["expected"], interval(row, 2), row["verdict"]]
        for _, row in read("quick", "tables/claims.csv").rename(columns={"ours": "value"}).iterrows()
    ]
    return table(["claim", "what decides it", "expected", "here (95 % interval)", "verdict"], rows)


@generated
def not_run() -> str:
    """Variants of the ablations that were not run, or not with all seeds."""
    coverage = read("ablations", "tables/coverage.csv").query("planned == 'ablations'")
    left = {status: part["variant"] for status, part in coverage.groupby("status", sort=False) if status != "done"}
    return "\n".join(f"- {status}: {', '.join(f'`{name}`' for name in names)}" for status, names in left.items())


@generated
def branches_left() -> str:
    """Branches that parsing leaves of the held-out minis' true ones, all cases together."""
    parsed = read("quick", "tables/exact09.csv").drop_duplicates("case")["exact09_branch_count"].sum()
    bins = read("quick", "tables/scores_by_diameter.csv")
    true = bins[bins["variant"] == bins["variant"].iloc[0]]["branches"].sum()
    return f"{parsed:.0f} of {true:.0f}"


# ----------------------------------------------------------------------------------------------------- docs/article.md


def decided() -> pd.DataFrame | None:
    """Contrasts of the study `decide` in its primary outcome; None before all of its seeds are done."""
    path = REFERENCE / "decide" / "tables/contrasts.csv"
    if not path.exists():
        return None
    rows = read("decide", "tables/contrasts.csv")
    return rows[rows["verdict"] != ""]


def seeds_done() -> tuple[int, int]:
    """Seeds of `decide` of which all arms are committed, and those that are planned."""
    from airwaystudy.plan.presets import read_preset

    preset, done = read_preset("decide"), 0
    for seed in preset.seeds:
        arms = [run for run in preset.scored_runs() if run.endswith(f"_{seed}")]
        done += all((REFERENCE / "decide/runs" / run / "scores.csv").exists() for run in arms)
    return done, len(preset.seeds)


@generated
def decide_status() -> str:
    """How far the study is."""
    done, planned = seeds_done()
    if decided() is None:
        return f"{done} of {planned} seeds are trained and scored. Nothing is said before all are."
    return f"All {planned} seeds. Synthetic data."


@generated
def decide_contrasts() -> str:
    """Every contrast with its interval and verdict."""
    rows = decided()
    if rows is None:
        return "*The contrasts stand here when all seeds are done.*"
    cells = (
        [
            row["name"],
            f"`{row['arm']}` − `{row['base']}`",
            interval(row.rename({"difference": "value"}), 2),
            "" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.3g}",
            f"{row['p_equivalence']:.3g}",
            f"**{row['verdict']}**" + (f" ({row['note']})" if row["note"] else ""),
        ]
        for _, row in rows.iterrows()
    )
    header = ["contrast", "arms", "points (95 % interval)", "p, Holm", "p, equivalence", "verdict"]
    return table(header, cells)


@generated
def decide_arms() -> str:
    """Every arm at 80 % precision, thin airways apart from wide ones."""
    if decided() is None:
        return "*The arms' scores stand here when all seeds are done.*"
    arms = read("decide", "tables/arms.csv").rename(columns={"mean": "value"})
    shown = {"td_80": "all", "td_thin_80": "under 2.5 mm", "td_wide_80": "from 2.5 mm", "bd_80": "branches"}
    rows = []
    for arm, part in arms.groupby("variant", sort=False):
        by = part.set_index("outcome")
        rows.append([f"`{arm}`", *(interval(by.loc[name]) for name in shown), f"{by.loc['td_80', 'sd_seed']:.1f}"])
    header = [f"{words}, %" for words in shown.values()]
    return table(["arm, at 80 % precision", *header, "SD of seeds, points"], rows)


@generated
def decide_replication() -> str:
    """What one more seed says, here and under another instruction set."""
    lines = []
    for path in sorted(REFERENCE.glob("replication*/tables/replication.csv")):
        rows = pd.read_csv(path).dropna(subset=["difference"])
        inside = rows["inside"].astype(str) == "True"
        moved = (rows["difference"] - rows["reference"]).abs().max()
        lines.append(
            f"- `{path.parts[-3]}`: {inside.sum()} of {len(rows)} contrasts lie where one more seed is expected; "
            f"the largest distance from the reference is {moved:.1f} points."
        )
    return "\n".join(lines) or "*Not run yet.*"


@generated
def decide_cost() -> str:
    """Core-hours of training and the machines."""
    seconds, machines = 0.0, {}
    for path in sorted((REFERENCE / "decide/runs").glob("*/summary.json")):
        cpu = json.loads(path.with_name("provenance.json").read_text()).get("cpu") or {}
        summary = json.loads(path.read_text())
        seconds += summary.get("cpu_seconds") or summary["training_seconds"] * (cpu.get("threads") or 1)
        machines[f"{cpu.get('name')} ({cpu.get('instructions')})"] = True
    if not seconds:
        return "*No run is done yet.*"
    return f"{seconds / 3600:.1f} core-hours of training so far counted, on {'; '.join(machines)}."


# -------------------------------------------------------------------------------------------------------- other pages


def measurements() -> pd.DataFrame:
    """What the benchmarks measured, as benchmarks/measured.csv keeps it."""
    return pd.read_csv(ROOT / "benchmarks" / "measured.csv", dtype=str)


def measured(key: str) -> str:
    """One measured value."""
    return measurements().set_index("key").loc[key, "value"]


@generated
def benchmark_numbers() -> str:
    """The measured values, each with its command."""
    rows = (
        [row["what"], f"{row['value']} {row['unit']}", f"`{row['command']}`"] for _, row in measurements().iterrows()
    )
    return table(["what", "measured", "command"], rows)


@generated
def benchmark_scripts() -> str:
    """The benchmarks with the first line of their docstrings."""
    rows = []
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        first = re.match(r'"""(.*?)(?:\n|""")', path.read_text())
        rows.append([f"[`{path.name}`](../benchmarks/{path.name})", first[1].strip() if first else ""])
    return table(["script", "what it measures"], rows)


@generated
def settings() -> str:
    """Every setting of a training run: default and description."""
    from airwaystudy.training.config import TrainConfig

    rows = []
    for name, field in TrainConfig.model_fields.items():
        default = "" if name.endswith("_cases") else "null" if field.default is None else str(field.default)
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        meaning = "; ".join(filter(None, [field.description, ", ".join(f"`{choice}`" for choice in choices)]))
        rows.append([f"`{name}`", default, meaning])
    return table(["setting", "default", "meaning"], rows)


@generated
def calibration() -> str:
    """Phantoms beside published values and real scans, property by property."""
    rows = []
    for name, part in read("phantoms", "tables/deviation.csv").groupby("property", sort=False):
        own = part.iloc[0]
        counted = name in ("branches", "generations") or own["unit"] in ("HU", "ml")
        digits = 0 if counted else 2
        beside = (
            f"{span([row['reference_low'], row['reference_high']], digits=digits)}: {row['source']}"
            for _, row in part.iterrows()
        )
        here = f"{span([own['phantom']], digits=digits)} ({span([own['mean_low'], own['mean_high']], digits=digits)})"
        words = re.sub(r"_(hu|mm|ml|deg)(?=_|$)", "", name).replace("_", " ")
        rows.append([words, "" if own["unit"] == "1" else own["unit"], here, "; ".join(beside)])
    return table(["property", "unit", "phantoms: median (range)", "reference"], rows)


@generated
def phantoms_command() -> str:
    """The command that makes the calibration again, with the notebook where it is today."""
    (path,) = sorted((ROOT / "notebooks").rglob("*phantoms.ipynb"))
    name = path.relative_to(ROOT).as_posix()
    return f"    papermill {name} out.ipynb -y '{{size: chest, seeds: [18, 19, 20]}}'"


@generated
def held_out() -> str:
    """Scores of the default weights on held-out phantoms: mean of the cases, with the lowest and the highest."""
    cases = read("chest", "tables/scores.csv")
    return table([*SCORES.values()], [[mean_and_range(list(cases[score])) for score in SCORES]])


@generated
def held_out_by_diameter() -> str:
    """The same by the true airway's diameter, with bootstrap intervals."""
    rows = []
    for _, row in read("chest", "tables/scores_by_diameter.csv").iterrows():
        cells = (
            interval(pd.Series({"value": row[score], "low": row[f"{score}_low"], "high": row[f"{score}_high"]}))
            for score in ("td", "bd", "precision")
        )
        rows.append([f"{row['diameter_mm']} mm", row["branches"], *cells])
    return table(["diameter", "branches", *list(SCORES.values())[:3]], rows)


@generated
def real_ct() -> str:
    """Two patients' CTs: time and scores against masks by region growing."""
    rows = []
    for _, row in read("chest", "tables/real_ct.csv").iterrows():
        scores = [f"{row[score]:.1f}" for score in ("td", "bd", "precision", "outside_ml", "leak_ml")]
        rows.append([f"{row['ct']} ({row['scan']}, {row['size']})", row["seconds"], *scores])
    names = ["seconds", *list(SCORES.values())[:3], "outside the mask, ml", "of that, leaks, ml"]
    return table(["CT", *names], rows)


@generated
def thresholds() -> str:
    """Scores of the default weights by threshold: two phantoms that served for nothing else."""
    found = read("chest", "tables/thresholds.csv")
    names = sorted(found["case"].unique())
    rows = []
    for threshold, part in found.groupby("threshold"):
        part = part.set_index("case").loc[names]
        rows.append([f"{threshold:g}", *(span_of_cases(part[score]) for score in SCORES)])
    return table(["threshold", *SCORES.values()], rows)


def span_of_cases(values: pd.Series) -> str:
    """Values of a few cases, in their order."""
    return " and ".join(f"{value:.1f}" for value in values)


# -------------------------------------------------------------------------------------------------------------- files


def documents() -> list[Path]:
    """The files that hold generated text."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "airwaylib/inference/weights/README.md"]


def rewritten(text: str) -> str:
    """The text with everything between markers made anew; an unknown or unclosed marker is an error."""

    def replace(found: re.Match) -> str:
        name = found[1]
        edge = "\n\n" if "\n" in found[2] else ""
        return f"<!-- {name} -->{edge}{GENERATED[name]()}{edge}<!-- /{name} -->"

    opened = re.findall(r"<!-- (\w+) -->", text)
    if unknown := sorted(set(opened) - set(GENERATED)):
        raise SystemExit(f"make_docs: no function makes {', '.join(unknown)}")
    if unclosed := [name for name in opened if text.count(f"<!-- /{name} -->") != opened.count(name)]:
        raise SystemExit(f"make_docs: {unclosed[0]} is opened and not closed")
    return re.sub(r"<!-- (\w+) -->(.*?)<!-- /\1 -->", replace, text, flags=re.DOTALL)


def main() -> None:
    """Rewrite the documents, or check that they are up to date."""
    check, stale = sys.argv[1:] == ["--check"], []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (new := rewritten(text)) != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(new, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'out of date' if check else 'rewritten'}")
    if check and stale:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
