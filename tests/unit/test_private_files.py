"""Files with secrets: nobody else reads them at any moment, and a kill leaves the old one or the new one."""

import os
import stat
from pathlib import Path

import pytest

from protocol.private_file import write_private


def test_only_its_owner_reads_it_even_where_everybody_could_before(tmp_path: Path) -> None:
    file = tmp_path / "home" / "secret"
    file.parent.mkdir()
    file.write_bytes(b"old")
    file.chmod(0o644)
    write_private(file, b"new")
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_a_write_that_is_cut_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    write_private(file, b"old")

    def cut(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(OSError, match="No space left"):
        write_private(file, b"new")
    assert file.read_bytes() == b"old"
