"""Write a study's page: notebooks/report.ipynb, run for the study by papermill and exported by nbconvert.

The page is one file: figures, tables and scripts are in it, and it asks the network for nothing.
"""

from importlib.resources import files
from pathlib import Path

from nbconvert import HTMLExporter
from papermill import PapermillExecutionError, execute_notebook

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaystudy import home

NOTEBOOK = home.HOME / "notebooks" / "report.ipynb"


def write_report(study: str) -> Path:
    """Judge the claims (tables/claims.csv) and write results/<study>/report.html; returns its path.

    The executed notebook stays in results/<study>/notebooks/.

    Raises `InputError`: no such study, or bad input that the notebook met, such as a fault in claims.yaml.
    """
    home.require_study(study)
    folder = home.results(study)
    if not any(folder.glob("tables/*.csv")) and not any(folder.glob("runs/*/scores.csv")):
        raise InputError(f"{folder}: no finished run and no table; train first: airwaylib reproduce {study}")
    executed, path = folder / "notebooks" / "report.ipynb", folder / "report.html"
    executed.parent.mkdir(exist_ok=True)
    try:
        # The kernel's own warnings, of unencrypted local sockets, are none of the study's.
        quiet = {"progress_bar": False, "extra_arguments": ["--log-level=ERROR"]}
        execute_notebook(NOTEBOOK, executed, {"study": study}, **quiet)
    except PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(error.evalue) from error
        raise
    with atomic_path(path) as temporary:
        temporary.write_text(as_html(executed, f"Study {study}: report"), encoding="utf-8")
    return path


def as_html(executed: Path, title: str) -> str:
    """Export an executed notebook as one page, without its code."""
    template = files("airwaystudy.report").joinpath("report_page.html.in").read_text(encoding="utf-8")
    exporter = HTMLExporter(
        raw_template=template,
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        embed_images=True,
    )
    return exporter.from_filename(str(executed), {"metadata": {"name": title}})[0]
