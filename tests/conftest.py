"""Order of the tests, and the phantoms' files that they share."""

import os

import pytest


def pytest_collection_modifyitems(items):
    """The notebooks first: they take longest, and with two files at a time nothing should wait for them at the end."""
    items.sort(key=lambda item: item.path.stem != "test_notebooks")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """A folder of mini_0000, mini_0001 and mini_0002, raw and prepared: copy what a test changes."""
    from airwaystudy.data.datasets import prepare_phantoms

    base = tmp_path_factory.getbasetemp()
    # Of several processes each takes what another has made: a case appears whole or not at all.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "phantoms"
    prepare_phantoms(folder, ["mini_0000", "mini_0001", "mini_0002"])
    return folder
