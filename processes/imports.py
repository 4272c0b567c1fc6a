"""Imports in programs that import much: torch, diffusers and transformers make some 460,000 objects, which stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Within, nobody looks for garbage, which takes about a sixth of such an import's time and finds next to none."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
