"""Outputs appear whole or not at all: write under a temporary name, then rename."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airwaylib.errors import InputError


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path to write (a file or a folder); it takes the name `path` when the block ends.

    If the block raises, what it wrote is removed and a former `path` stays as it was. The temporary path keeps the
    name, because writers choose their format by its suffix, in a hidden folder beside `path` that no other process
    shares: of several that write the same `path` at once, the last wins, whole.

    Raises `InputError`: the folder cannot be made or written, or the disk is full.

    Examples
    --------
    >>> with atomic_path("/tmp/answer.txt") as temporary:
    ...     _ = temporary.write_text("42")
    >>> Path("/tmp/answer.txt").read_text()
    '42'
    """
    path = Path(path)
    hidden = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
        temporary = hidden / path.name
        yield temporary
        _flush(temporary)
        _rename(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error}); a writable folder with enough space is needed"
        ) from error
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)


def check_writable(path: str | os.PathLike) -> None:
    """Raise `InputError` unless a file can be written at `path`, or in folders made there; makes nothing."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file")
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); a writable folder is needed") from error


def _flush(path: Path) -> None:
    """Force a file, or a folder's files, to the disk: network disks and quotas tell of a full one only now."""
    for part in [path, *path.rglob("*")]:
        if part.is_file() and os.access(part, os.W_OK):
            with part.open("rb+") as file:
                os.fsync(file.fileno())


def _rename(temporary: Path, path: Path) -> None:
    """Let `temporary` take the place of `path`; if that fails, `path` is as before."""
    if not temporary.is_dir():
        temporary.replace(path)
        return
    # A folder cannot be renamed onto a file, nor onto a folder that holds files: set that aside first.
    former = temporary.with_name(f"former-{temporary.name}")
    if os.path.lexists(path):
        path.replace(former)
    try:
        temporary.replace(path)
    except OSError:
        if os.path.lexists(former):
            former.replace(path)
        raise
