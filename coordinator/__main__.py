"""``python -m coordinator``: the same as ``coterie-coordinator``."""

from coordinator.cli import app

app()
