"""``python -m client``: the same as ``coterie``."""

from client.cli import app

app()
