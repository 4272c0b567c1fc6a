"""A machine's change of node key, on its own disk: at any moment a usable key is in place."""

from pathlib import Path

from protocol import node_key


def begin_rotation(path: Path) -> Path:
    """Put the key at ``path`` aside and make a new one there; where the old one is now.

    A rotation that was cut off goes on: the key that was put aside then is still the old one.
    """
    old = put_aside(path)
    if not old.exists():
        path.rename(old)
    node_key.create(path)
    return old


def undo_rotation(path: Path) -> None:
    """Take the old key back, where no grant came for the new one."""
    put_aside(path).replace(path)


def put_aside(path: Path) -> Path:
    """Where the old key is kept until it is shut out."""
    return path.with_suffix(".old.pem")
