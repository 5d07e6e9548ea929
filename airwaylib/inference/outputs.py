"""Segment a CT on disk and write the files asked for; their names are checked before the work.

What checks and writes a file is imported only where that file is asked for: some of it takes seconds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from airwaylib.errors import InputError
from airwaylib.files import check_writable

if TYPE_CHECKING:
    from pydicom import Dataset

    from airwaylib.images.volume import Volume


class Found(NamedTuple):
    """A segmentation to be written.

    `uncertainty` and `sources` (from `dicom_seg.read_sources`) may be None where their files are not asked for;
    `weights` is a name.
    """

    mask: "Volume"
    uncertainty: "Volume | None" = None
    sources: "list[Dataset] | None" = None
    weights: str = ""


Check = Callable[[Path], None]  # raises `InputError` for a name that cannot be written
Write = Callable[[Found, Path], None]


def _image(name: str) -> tuple[Check, Write]:
    from airwaylib.images.files import check_output
    from airwaylib.images.volume import write_volume

    return check_output, lambda found, path: write_volume(getattr(found, name), path)


def _dicom_seg() -> tuple[Check, Write]:
    from airwaylib.images.dicom_seg import check_seg_suffix, write_dicom_seg

    return check_seg_suffix, lambda found, path: write_dicom_seg(found.mask, found.sources, path, found.weights)


def _mesh() -> tuple[Check, Write]:
    from airwaylib.images.mesh import check_mesh_suffix, write_mesh

    return check_mesh_suffix, lambda found, path: write_mesh(found.mask, path)


def _tree() -> tuple[Check, Write]:
    from airwaylib.trees.files import check_tree_suffix, write_tree
    from airwaylib.trees.parse import parse_tree

    def write(found: Found, path: Path) -> None:
        mask = found.mask
        write_tree(parse_tree(mask.array, mask.spacing, mask.origin, mask.direction), path)

    return check_tree_suffix, write


KINDS = {
    "mask": lambda: _image("mask"),
    "uncertainty": lambda: _image("uncertainty"),
    "dicom_seg": _dicom_seg,
    "mesh": _mesh,
    "tree": _tree,
}
NEED_AIRWAY = ("dicom_seg", "mesh", "tree")


@dataclass(frozen=True)
class Outputs:
    """Names of the files to write; None is not written.

    Parameters
    ----------
    mask : Path
        .nii, .nii.gz, .nrrd or .mha.
    dicom_seg, mesh, tree, uncertainty : Path, optional
        See `images.dicom_seg`, `images.mesh`, `trees.files` and `inference.uncertainty`.
    """

    mask: Path
    dicom_seg: Path | None = None
    mesh: Path | None = None
    tree: Path | None = None
    uncertainty: Path | None = None

    def paths(self) -> list[Path]:
        """Files to be written, the mask first."""
        return [path for path in vars(self).values() if path]

    def listed(self) -> list[tuple[Path, Check, Write]]:
        """Path, check and writer of each file, in the order of writing: those that need an airway come last."""
        return [(path, *kind()) for name, kind in KINDS.items() if (path := getattr(self, name))]

    def check(self, ct: Path) -> None:
        """Raise `InputError` if a file could not be written, two have one name, or `ct` is not what they need."""
        for path, check, _ in self.listed():
            check(path)
            if path.resolve() == ct.resolve() or (ct.is_dir() and path.resolve().parent == ct.resolve()):
                raise InputError(f"{path}: would be written over the CT, or among its slices; give another place")
            check_writable(path)
        if self.dicom_seg and ct.exists() and not ct.is_dir():
            raise InputError(f"{ct}: a file; a DICOM Segmentation refers to the slices of a DICOM folder")
        if len({path.resolve() for path in self.paths()}) < len(self.paths()):
            raise InputError(f"{', '.join(map(str, self.paths()))}: give each output a name of its own")

    def write(self, found: Found) -> None:
        """Write all files.

        Raises `InputError`: the mask is empty and other files need an airway (the mask is written nevertheless), or a
        file cannot be written.
        """
        lost = [getattr(self, name) for name in NEED_AIRWAY] if not found.mask.array.any() else []
        for path, _, write in self.listed():
            if path not in lost:
                write(found, path)
        if any(lost):
            names = ", ".join(str(path) for path in lost if path)
            raise InputError(f"{names}: not written, no airway was found; the empty mask is in {self.mask}")


def uncertainty_beside(mask: Path) -> Path:
    """Name the uncertainty map of a mask: airway.nii.gz has airway_uncertainty.nii.gz."""
    suffix = mask.name[-7:] if mask.name.lower().endswith(".nii.gz") else mask.suffix
    return mask.with_name(f"{mask.name.removesuffix(suffix)}_uncertainty{suffix}")


def segment_file(
    ct: Path,
    outputs: Outputs,
    weights: Path,
    series: str | None = None,
    samples: int = 0,
    seed: int = 0,
    **options,
) -> "Volume":
    """Segment the CT at `ct` and write the outputs.

    Raises `InputError`: something cannot be read, segmented or written.

    Parameters
    ----------
    ct, series :
        As for `volume.read_ct`.
    outputs : Outputs
        Checked before anything is read.
    weights : Path
        Checkpoint.
    samples, seed :
        As for `segment_with_uncertainty`; needed where an uncertainty is to be written.
    **options :
        `threshold`, `device` and `progress`, as for `segment`.

    Returns
    -------
    Volume
        The mask.
    """
    outputs.check(ct)
    if outputs.uncertainty and samples < 2:
        raise InputError(f"{outputs.uncertainty}: {samples} samples; a deviation needs 2 or more, such as --samples 8")
    from airwaylib.images.volume import read_ct

    volume, sources = read_ct(ct, series), None
    if outputs.dicom_seg:
        from airwaylib.images.dicom_seg import read_sources

        sources = read_sources(ct, series)
    # Imported only after errors of the input: torch takes seconds.
    from airwaylib.inference.segment import segment
    from airwaylib.inference.uncertainty import check_dropout, segment_with_uncertainty
    from airwaylib.networks.checkpoints import load_checkpoint

    network, info = load_checkpoint(weights)
    with _naming(weights):
        if outputs.uncertainty:
            check_dropout(network, samples)
    with _naming(ct):
        if outputs.uncertainty:
            mask, uncertainty = segment_with_uncertainty(volume, network, info, samples, seed, **options)
        else:
            mask, uncertainty = segment(volume, network, info, **options), None
    outputs.write(Found(mask, uncertainty, sources, weights.stem))
    return mask


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message of an `InputError` about its contents."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
