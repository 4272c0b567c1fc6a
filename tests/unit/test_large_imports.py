"""A program that imports much is not held up by looking for garbage, and looks for it as ever afterwards."""

from __future__ import annotations

import gc

import pytest

from processes.imports import uncollected


def test_nobody_looks_for_garbage_within_and_somebody_does_afterwards() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled(), "not before the outermost one has ended"
    assert gc.isenabled()


def test_an_import_that_fails_changes_nothing() -> None:
    with pytest.raises(ModuleNotFoundError), uncollected():
        import no_such_module  # noqa: F401
    assert gc.isenabled()


def test_whoever_does_without_it_is_left_in_peace() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
