"""The face of the package: every name resolves, and neither the import nor the command's help loads a heavy library."""

import resource
import subprocess
import sys
from importlib.metadata import version

import pytest

import airwaylib

HEAVY = {"torch", "numpy", "scipy", "pandas", "monai", "zarr", "SimpleITK", "matplotlib", "skimage", "pydantic"}


def loaded_by(code):
    done = subprocess.run([sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return set(done.stdout.decode().split())


@pytest.mark.parametrize("name", airwaylib.__all__)
def test_every_name_resolves_to_what_bears_it(name):
    found = getattr(airwaylib, name)
    assert found == airwaylib.__version__ if name == "__version__" else found.__name__ == name


def test_the_names_are_those_promised():
    losses = {"general_union_loss", "general_union_weight", "GeneralUnionLoss", "relative_distance"}
    others = {"WingsNet", "class_gradients", "parse_tree", "evaluate", "segment", "load_checkpoint", "__version__"}
    images = {"read_ct", "write_volume"}
    assert set(airwaylib.__all__) == losses | others | images
    assert set(airwaylib.__all__) - {"__version__"} <= set(dir(airwaylib))
    assert airwaylib.__version__ == version("airwaylib")
    with pytest.raises(ImportError, match="cannot import name 'WingNet'"):
        from airwaylib import WingNet  # noqa: F401


def test_the_import_loads_nothing_heavy():
    assert loaded_by("import airwaylib") & HEAVY == set()


def test_the_help_loads_nothing_heavy_and_takes_less_than_a_second():
    help_of = "import sys; sys.argv[1:] = ['--help']; from airwaystudy.cli import app; app(standalone_mode=False)"
    assert loaded_by(help_of) & HEAVY == set()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "airwaystudy", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Time on the processor, whatever else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
