"""Commands about a whole study, which `cli` adds to its own."""

import os
from pathlib import Path
from typing import Annotated

import typer

from airwaylib.errors import InputError


def reproduce(
    preset: Annotated[str, typer.Argument(help="Preset of study.yaml: quick (minutes on a CPU), paper (GPUs), ...")],
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Only these runs, such as both_dice_0.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="CPU cores.; without it, all, or what the profile says")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Snakemake profile for a cluster: profiles/slurm or profiles/kubernetes.")
    ] = None,
) -> None:
    """Rerun a study: data, runs, gradients, ablations, figures, claims, report. What stands is not made again."""
    from airwaylib.reproduce import reproduce as reproduce_preset

    options = ["--profile", str(profile)] if profile else []
    # This machine's cores are no limit to a cluster's jobs.
    missing = reproduce_preset(preset, runs, cores or (None if profile else os.cpu_count() or 1), options)
    if missing:
        raise InputError(f"runs that are not done: {', '.join(missing)}; the report is made of the others")


def report(name: Annotated[str, typer.Argument(metavar="STUDY", help="Folder under results/, such as quick.")]) -> None:
    """Judge the claims by a study's tables and write its page: results/STUDY/tables/claims.csv and report.html."""
    from airwaylib.report import write_report

    typer.echo(write_report(name))
