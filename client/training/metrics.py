"""Losses for TensorBoard, where it is installed; else nothing is written."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = "metrics"


class Metrics:
    """Scalars by step, in the round's folder."""

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is not None and find_spec("tensorboard"):
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(folder / FOLDER)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def add(self, name: str, value: float | None, step: int) -> None:
        """One scalar; None is none."""
        if self._writer and value is not None:
            self._writer.add_scalar(name, value, step)
