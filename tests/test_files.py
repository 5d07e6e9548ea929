"""Outputs appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from airwaylib.errors import InputError
from airwaylib.files import atomic_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_at_the_end_in_a_new_folder(tmp_path):
    path = tmp_path / "new" / "answer.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("42")
        assert not path.exists()
        assert temporary.name == "answer.txt"  # writers choose their format by the suffix
    assert path.read_text() == "42"
    assert names(path.parent) == ["answer.txt"]


def test_file_replaces_a_former_one(tmp_path):
    path = tmp_path / "answer.txt"
    path.write_text("41")
    with atomic_path(path) as temporary:
        temporary.write_text("42")
        assert path.read_text() == "41"
    assert path.read_text() == "42"


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), InputError("no")])
def test_former_file_stays_when_the_block_raises(tmp_path, error):
    path = tmp_path / "answer.txt"
    path.write_text("41")
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        temporary.write_text("4")
        raise error
    assert path.read_text() == "41"
    assert names(tmp_path) == ["answer.txt"]


def test_folder_replaces_a_former_folder_and_all_it_held(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    (path / "old").write_text("old")
    with atomic_path(path) as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "new").write_text("new")
        assert names(path) == ["old"]
    assert names(path) == ["deep"]
    assert names(tmp_path) == ["store"]


def test_folder_replaces_a_file(tmp_path):
    path = tmp_path / "store"
    path.write_text("a file")
    with atomic_path(path) as temporary:
        temporary.mkdir()
    assert path.is_dir()
    assert names(tmp_path) == ["store"]


def test_former_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "store"
    path.mkdir()
    (path / "old").write_text("old")
    replace = Path.replace

    def refuse_the_new(self, target):
        if (self / "new").exists():
            raise OSError(errno.EIO, "broken disk")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse_the_new)
    with pytest.raises(InputError, match="broken disk"), atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert names(path) == ["old"]
    assert names(tmp_path) == ["store"]


def test_two_writers_of_one_path_do_not_mix(tmp_path):
    path = tmp_path / "answer.txt"
    with atomic_path(path) as slow:
        slow.write_text("slow, first half")
        with atomic_path(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick"
        with slow.open("a") as file:
            file.write(", second half")
    assert path.read_text() == "slow, first half, second half"
    assert names(tmp_path) == ["answer.txt"]


def test_full_disk_found_at_the_last_flush_is_an_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "answer.txt"
    reason = r"answer.txt: cannot be written \(\[Errno 28\] No space left on device\)"
    with pytest.raises(InputError, match=reason), atomic_path(path) as temporary:
        temporary.write_text("42")
    assert names(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for path in (tmp_path / "file" / "answer.txt", tmp_path / "folder", Path("/proc/answer.txt")):
        with pytest.raises(InputError, match=f"{path}: cannot be written"), atomic_path(path) as temporary:
            temporary.write_text("42")
    assert names(tmp_path) == ["file", "folder"]
    assert names(tmp_path / "folder") == ["inner"]
