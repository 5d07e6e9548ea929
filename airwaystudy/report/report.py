"""Write a study's page: notebooks/report.ipynb, executed for the study and exported by nbconvert.

The page is one file: figures, tables and scripts are in it, and it asks the network for nothing.
"""

import os
from importlib.resources import files
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from traitlets.config import Config

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaystudy import home

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "report.ipynb"  # beside the package


def write_report(study: str) -> Path:
    """Judge the claims (tables/claims.csv) and write results/<study>/report.html; returns its path.

    Raises
    ------
    InputError
        No such study, or bad input met by the notebook, such as a fault in claims.yaml.
    """
    path = home.require_study(study) / "report.html"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = f"study = {study!r}"
    try:
        NotebookClient(notebook, timeout=None).execute(env=os.environ | {"AIRWAYLIB_HOME": str(home.HOME)})
    except CellExecutionError as error:
        if error.ename == "InputError":
            raise InputError(error.evalue) from error
        raise
    with atomic_path(path) as temporary:
        temporary.write_text(as_html(notebook, f"Study {study}: report"), encoding="utf-8")
    return path


def as_html(notebook: nbformat.NotebookNode, title: str) -> str:
    """An executed notebook as one page, without its code."""
    hidden = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}
    options = {"TemplateExporter": hidden, "HTMLExporter": {"embed_images": True, "exclude_anchor_links": True}}
    template = files("airwaystudy.report").joinpath("report_page.html.in").read_text(encoding="utf-8")
    exporter = HTMLExporter(config=Config(options), raw_template=template)
    return exporter.from_notebook_node(notebook, {"metadata": {"name": title}})[0]
