"""The coordinator's database: what was made by another version is told in a sentence, and left as it is."""

import sqlite3
from pathlib import Path

import pytest

from coordinator.database import Database
from protocol.errors import BadInput


def test_a_database_of_an_older_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/coterie.sqlite"
    Database(url).close()
    with sqlite3.connect(tmp_path / "coterie.sqlite") as old:
        old.execute("ALTER TABLE releases DROP COLUMN published_at")
    with pytest.raises(BadInput, match=r"older version: releases has no published_at"):
        Database(url)


def test_a_database_of_this_version_opens_again(tmp_path: Path) -> None:
    for _ in range(2):
        Database(f"sqlite:///{tmp_path}/coterie.sqlite").close()
