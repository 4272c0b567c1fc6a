"""The model families that can be trained: one module each, chosen by the pipeline class in ``model_index.json``.

What lives here: what differs between families (text encoders, noise schedule, what the denoiser is asked). A new
family is one new module with a subclass of ``Base`` that names its pipeline classes; nothing else changes. How to
train, measure or score is not here.
"""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from bases.families.family import Base


def family_of(pipeline: str) -> type[Base] | None:
    """The family whose pipelines go by this class name."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return next((family for family in _below(Base) if pipeline in family.pipelines), None)


def _below(family: type[Any]) -> Iterator[type[Base]]:
    for one in family.__subclasses__():
        yield one
        yield from _below(one)


__all__ = ["Base", "family_of"]
