"""`airwaylib segment`: a CT on disk to all the files asked for; their names are checked before the work."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airwaylib.errors import InputError
from airwaylib.files import check_writable

if TYPE_CHECKING:
    from pydicom import Dataset

    from airwaylib.images.volume import Volume


@dataclass(frozen=True)
class Outputs:
    """Where a segmentation goes; None is not written.

    Parameters
    ----------
    mask : Path
        .nii, .nii.gz, .nrrd or .mha.
    dicom_seg, mesh, tree, uncertainty : Path, optional
        See `dicomseg`, `mesh`, `treefile` and `uncertainty`.
    """

    mask: Path
    dicom_seg: Path | None = None
    mesh: Path | None = None
    tree: Path | None = None
    uncertainty: Path | None = None

    def paths(self) -> list[Path]:
        """Those to be written, the mask first."""
        return [path for path in vars(self).values() if path]

    def check(self, ct: Path) -> None:
        """Raise `InputError` if a file could not be written, two have one name, or `ct` is not what they need."""
        from airwaylib.images.files import check_output

        check_output(self.mask)
        if self.uncertainty:
            check_output(self.uncertainty)
        if self.tree:
            from airwaylib.trees.files import check_tree_suffix

            check_tree_suffix(self.tree)
        if self.mesh:
            from airwaylib.images.mesh import check_mesh_suffix

            check_mesh_suffix(self.mesh)
        if self.dicom_seg:
            from airwaylib.images.dicom_seg import check_seg_suffix

            check_seg_suffix(self.dicom_seg)
            if ct.exists() and not ct.is_dir():
                raise InputError(f"{ct}: a file; a DICOM Segmentation refers to the slices of a DICOM folder")
        for path in self.paths():
            if path.resolve() == ct.resolve() or (ct.is_dir() and path.resolve().parent == ct.resolve()):
                raise InputError(f"{path}: would be written over the CT, or among its slices; give another place")
        if len({path.resolve() for path in self.paths()}) < len(self.paths()):
            raise InputError(f"{', '.join(map(str, self.paths()))}: give each output a name of its own")
        for path in self.paths():
            check_writable(path)

    def write(
        self, mask: "Volume", uncertainty: "Volume | None", sources: "list[Dataset] | None", weights: str
    ) -> None:
        """Write all: first what needs no airway, then what does.

        `uncertainty` and `sources` (of `dicomseg.read_sources`) may be None where their files are; `weights` is a name.
        Raises `InputError` if the mask is empty and more than it was asked for, or a file cannot be written.
        """
        from airwaylib.images.volume import write_volume

        write_volume(mask, self.mask)
        if self.uncertainty:
            write_volume(uncertainty, self.uncertainty)
        others = [str(path) for path in (self.dicom_seg, self.mesh, self.tree) if path]
        if others and not mask.array.any():
            raise InputError(f"{', '.join(others)}: not written, no airway was found; the empty mask is in {self.mask}")
        if self.dicom_seg:
            from airwaylib.images.dicom_seg import write_dicom_seg

            write_dicom_seg(mask, sources, self.dicom_seg, weights)
        if self.mesh:
            from airwaylib.images.mesh import write_mesh

            write_mesh(mask, self.mesh)
        if self.tree:
            from airwaylib.trees.files import write_tree
            from airwaylib.trees.parse import parse_tree

            write_tree(parse_tree(mask.array, mask.spacing, mask.origin, mask.direction), self.tree)


def uncertainty_beside(mask: Path) -> Path:
    """Name of the uncertainty map of the mask `mask`: airway.nii.gz has airway_uncertainty.nii.gz."""
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

    Parameters
    ----------
    ct, series :
        As for `volume.read_volume`; HU.
    outputs : Outputs
        Checked before anything is read.
    weights : Path
        Checkpoint.
    samples, seed :
        As for `uncertainty.segment_with_uncertainty`; needed where an uncertainty is to be written.
    **options :
        `probability` and `device`, as for `inference.segment`.

    Returns
    -------
    Volume
        The mask.

    Raises
    ------
    InputError
        What cannot be read, segmented or written, and why.
    """
    outputs.check(ct)
    if outputs.uncertainty and samples < 2:
        raise InputError(f"{outputs.uncertainty}: {samples} samples; a deviation needs 2 or more, such as --samples 8")
    from airwaylib.images.volume import read_ct

    volume, sources = read_ct(ct, series), None
    if outputs.dicom_seg:
        from airwaylib.images.dicom_seg import read_sources

        sources = read_sources(ct, series)
    # After the input's errors: torch takes seconds to import.
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
    outputs.write(mask, uncertainty, sources, weights.stem)
    return mask


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with its contents."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
