"""The command `airwaylib`, from phantoms to scores. Heavy imports wait until a command needs them."""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from airwaylib.errors import InputError

app = typer.Typer(
    help="Airway segmentation with WingsNet and the General Union loss (after Zheng et al., IEEE TMI 2021).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PLAIN = warnings.formatwarning
BAR = {"unit": "case", "disable": None, "leave": False}  # a progress bar's; none where stderr is no terminal


@app.command()
def phantom(
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder for the cases: OUT/SIZE_SEED/{ct,airway,lung,centreline}.nii.gz, tree.csv, case.json."
        ),
    ],
    cases: Annotated[int, typer.Option(min=1, help="How many cases.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first case; the others count up from it.")] = 0,
    size: Annotated[str, typer.Option(help="mini (128^3 at 1 mm, healthy) or chest (an adult, 512x512).")] = "mini",
) -> None:
    """Make synthetic chest CTs with exact truth. Existing cases are kept."""
    from tqdm import tqdm

    from airwaystudy.phantoms.case import ensure_phantom

    for number in tqdm(range(seed, seed + cases), unit="case", disable=None):
        typer.echo(ensure_phantom(number, size, out))


@app.command()
def prepare(
    layout: Annotated[
        str, typer.Argument(help="How it lies on disk: bas, atm22, aiib23, exact09, aeropath, phantom or folder.")
    ],
    root: Annotated[Path, typer.Argument(help="Folder of the data set; docs/your-data.md tells what must lie where.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for prepared/CASE.zarr and cases.csv; without it, data/LAYOUT."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; without it, one for each core and 6 GB of memory.")
    ] = None,
    split: Annotated[
        Path | None, typer.Option(help="YAML with train, validation and test: [CASE, ...]; else the set's or ours.")
    ] = None,
    distance_unit: Annotated[
        str, typer.Option(help="Of the distance to the centreline: mm, or voxels (the authors').")
    ] = "mm",
) -> None:
    """Prepare a data set's cases for training. Existing stores are kept; bad cases are named at the end."""
    from tqdm import tqdm

    from airwaystudy import home

    lists = read_settings(split) if split else None
    data = output or home.path("data/phantoms" if layout == "phantom" else f"data/{layout}")
    from airwaystudy.data.datasets import prepare_dataset

    try:
        report = prepare_dataset(
            layout, root, data, jobs, lists, distance_unit, lambda done, total: tqdm(done, total=total, **BAR)
        )
    except InputError as error:
        raise InputError(f"{split}: {str(error)[7:]}" if str(error).startswith("split: ") else error) from error
    for note in report.notes:
        typer.echo(note, err=True)
    for case, what in report.mended.items():
        typer.echo(f"{case}: mended ({what})", err=True)
    typer.echo(f"{report.table}: {len(report.stores)} cases, stores in {data / 'prepared'}")
    for fault in report.faults.values():
        typer.echo(fault, err=True)
    if report.faults:
        raise InputError(f"cases left out: {', '.join(report.faults)}")


@app.command()
def train(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="Settings that replace the file's; docs/your-data.md lists all."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, or a recipe of stages such as recipes/paper.yaml.")
    ] = None,
) -> None:
    """Train a run, or every stage of a recipe, or resume it. Writes results/STUDY/runs/RUN/."""
    import yaml

    from airwaystudy import home
    from airwaystudy.training.config import Recipe, with_cases

    settings = read_settings(config) if config else {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise InputError(f"{override!r} is not a setting: write KEY=VALUE, such as epochs=20")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{override!r}: the value is no valid YAML ({' '.join(str(error).split())})") from error
    recipe = home.validated(Recipe, with_cases(settings), str(config or "settings"))
    from airwaystudy.training.launch import (
        train as train_recipe,  # after the settings' errors: torch takes seconds to import
    )

    for run, summary in zip(recipe.runs(), train_recipe(recipe), strict=True):
        if "RANK" not in os.environ:  # of several processes, none says what the first has said
            typer.echo(f"{run.folder}: " + ", ".join(f"{key} {value}" for key, value in summary.items()))


@app.command()
def segment(
    ct: Annotated[
        list[Path],
        typer.Argument(metavar="CT", help="Chest CT in HU: .nii, .nii.gz, .nrrd, .mha, .mhd or a DICOM folder (a CD)."),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="Airway mask, on the CT's own grid.")],
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint .safetensors; without it, ours, trained on phantoms.")
    ] = None,
    probability: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            "--probability",
            help="Voxels of at least this probability are airway; default: the checkpoint's.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    series: Annotated[str | None, typer.Option(help="UID of the series, where a folder holds several CTs.")] = None,
    dicom_seg: Annotated[
        Path | None, typer.Option(help="The mask as a DICOM Segmentation, .dcm; the CT must be a DICOM folder.")
    ] = None,
    mesh: Annotated[Path | None, typer.Option(help="The mask's surface, .stl or .ply; mm, LPS.")] = None,
    tree: Annotated[Path | None, typer.Option(help="The mask's branches, .csv, .json, .swc or .vtp.")] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Draws of channel dropout for a map of uncertainty, such as 8; 0: no map.")
    ] = 0,
    uncertainty: Annotated[
        Path | None,
        typer.Option(help="File of the map of uncertainty; without it, OUT_uncertainty beside the mask OUT."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws for the map of uncertainty.")] = 0,
) -> None:
    """Segment the airway tree of a chest CT. For research; not for clinical use."""
    from airwaylib.inference import DEFAULT_WEIGHTS
    from airwaylib.inference.outputs import Outputs, segment_file, uncertainty_beside

    if len(ct) > 1:
        raise InputError(f"{len(ct)} CTs given ({', '.join(map(str, ct))}): segment takes one; call it for each")
    outputs = Outputs(out, dicom_seg, mesh, tree, uncertainty or (uncertainty_beside(out) if samples else None))
    sampling = {"samples": samples, "seed": seed}
    weights = weights or DEFAULT_WEIGHTS
    mask = segment_file(ct[0], outputs, weights, series, **sampling, threshold=probability, device=device)
    typer.echo(f"{out}: {mask.array.sum() * mask.voxel_ml:.1f} ml of airway")
    for path in outputs.paths()[1:]:
        typer.echo(path)


@app.command()
def evaluate(
    prediction: Annotated[
        Path,
        typer.Argument(
            help="Airway mask, a folder of them: CASE.nii.gz (.nrrd, .mha, ...), or, alone, a training run: "
            "results/STUDY/runs/RUN, whose test cases are segmented first."
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Argument(help="Reference mask, or a folder: CASE.nii.gz, or CASE/airway.nii.gz as phantoms have it."),
    ] = None,
    convention: Annotated[
        str, typer.Option(help="Rules: paper, atm22, atm26, aiib23 or exact09. They move the scores by points.")
    ] = "paper",
    branches: Annotated[
        Path | None,
        typer.Option(help="Given labels of the references' branches (atm26 only), named like these; else parsed."),
    ] = None,
    subset: Annotated[bool, typer.Option("--subset", help="References may hold more cases than predictions.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write all scores here, also by generation and diameter.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a row of scores a case here.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write EXACT'09's table here (convention exact09).")] = None,
) -> None:
    """Score masks against references, or a run on its test cases: tree length, branches, overlap; percent."""
    from tqdm import tqdm

    from airwaylib.files import atomic_path, check_writable
    from airwaylib.metrics.cases import evaluate_files

    outputs = [path for path in (json, csv, latex) if path]
    if latex and convention != "exact09":
        raise InputError(f"--latex writes EXACT'09's table: add --convention exact09 (now {convention})")
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise InputError(f"{outputs[0]}: several outputs have this name; give each its own")
    for path in outputs:
        check_writable(path)

    def bar(cases: list) -> tqdm:
        return tqdm(cases, **BAR)

    if reference is None:
        from airwaystudy.training.held_out import read_run, score_test_cases

        if branches or subset:
            raise InputError("--branches and --subset go with references: give them after the predictions")
        evaluation = score_test_cases(read_run(prediction), convention, bar)
    else:
        evaluation = evaluate_files(prediction, reference, convention, branches, subset, bar)
    typer.echo(f"convention {convention}; percent\n{evaluation.as_text()}")
    if json:
        from airwaystudy import home

        home.write_json(json, evaluation.as_json())
    for path, text in ((csv, evaluation.as_csv), (latex, evaluation.as_latex)):
        if path:
            with atomic_path(path) as temporary:
                temporary.write_text(text())
    if evaluation.unmatched:
        typer.echo(f"references without a prediction: {', '.join(evaluation.unmatched)}", err=True)
    for case in evaluation.empty:
        typer.echo(f"{case}: the prediction is empty: it scores 0", err=True)
    if evaluation.faults:
        raise InputError("cases left out: " + "; ".join(f"{case}: {why}" for case, why in evaluation.faults.items()))


@app.command()
def tree(
    mask: Annotated[Path, typer.Argument(help="Airway mask: .nii, .nii.gz, .nrrd, .mha or .mhd.")],
    out: Annotated[
        Path,
        typer.Option("--output", "-o", help="The tree: .csv (branches), or .json, .swc, .vtp (and centreline)."),
    ],
    picture: Annotated[Path | None, typer.Option(help="Draw it: .png, .svg, or .html to turn with the mouse.")] = None,
    merge: Annotated[bool, typer.Option(help="Merge segments as the reference parser does.")] = True,
) -> None:
    """Parse an airway mask into branches: parents, generations, lengths, radii (mm)."""
    from airwaylib.files import check_writable
    from airwaylib.images.volume import read_mask
    from airwaylib.trees.files import check_tree_suffix, write_tree
    from airwaylib.trees.parse import parse_tree

    check_tree_suffix(out)
    if picture and picture.suffix not in (".png", ".svg", ".html"):
        raise InputError(f"{picture}: suffix {picture.suffix!r} is unknown: choose .png, .svg or .html")
    for path in filter(None, (out, picture)):
        check_writable(path)
    if mask.is_dir():
        raise InputError(f"{mask}: is a folder; give one mask file")
    volume = read_mask(mask)
    parsed = parse_tree(volume.array, volume.spacing, volume.origin, volume.direction, merge)
    write_tree(parsed, out)
    if picture:
        from airwaystudy.figures.trees import draw_tree_file

        draw_tree_file(parsed, picture, mask.name)
        typer.echo(picture)
    typer.echo(f"{out}: {parsed!r}")


@app.command()
def reproduce(
    preset: Annotated[str, typer.Argument(help="Preset of study.yaml: quick (minutes on a CPU), paper (GPUs), ...")],
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Only these runs, such as both_dice_0.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="CPU cores; without it, all, or the profile's")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Snakemake profile for a cluster: profiles/slurm or profiles/kubernetes.")
    ] = None,
    cpu_anyway: Annotated[
        bool, typer.Option("--cpu-anyway", help="Train on the CPU what is meant for a GPU, however long it takes.")
    ] = False,
) -> None:
    """Rerun a study: data, runs, gradients, results, exhibits, claims, report. Finished parts are not made again."""
    from airwaystudy import home

    home.require_checkout("reproduce")
    from airwaystudy.plan.reproduce import reproduce as reproduce_preset

    options = ["--profile", str(profile)] if profile else []
    # This machine's cores are no limit to a cluster's jobs.
    missing = reproduce_preset(preset, runs, cores or (None if profile else os.cpu_count() or 1), options, cpu_anyway)
    if missing:
        raise InputError(f"runs that are not done: {', '.join(missing)}; the report is made of the others")


@app.command()
def report(name: Annotated[str, typer.Argument(metavar="STUDY", help="Folder under results/, such as quick.")]) -> None:
    """Judge the claims by a study's tables and write results/STUDY/tables/claims.csv and report.html."""
    from airwaystudy import home

    home.require_checkout("report")
    from airwaystudy.report.report import write_report

    typer.echo(write_report(name))


def read_settings(path: Path) -> dict:
    """The settings of a YAML file."""
    import yaml

    try:
        settings = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds no settings; write one 'key: value' a line")
    return settings


def one_line(message: Warning | str, category: type[Warning], filename: str, *where) -> str:
    """Format a warning of ours as one line, and any other as Python does."""
    ours = category is UserWarning and {"airwaylib", "airwaystudy"} & set(Path(filename).parts)
    return f"airwaylib: {message}\n" if ours else PLAIN(message, category, filename, *where)


def main() -> None:
    """Run the command; the input's faults become one line and exit status 2, our warnings a line each."""
    warnings.formatwarning = one_line
    try:
        app(prog_name="airwaylib")
    except InputError as error:
        print(f"airwaylib: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:  # a plain install lacks what the study needs
        if str(error.name).startswith("airway"):
            raise
        print(f"airwaylib: this needs pip install 'airwaylib[study]' (no module {error.name!r})", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
