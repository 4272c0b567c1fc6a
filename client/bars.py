"""Progress for a person: bars in a terminal, and now and then a plain line where the output is a file."""

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from client.progress import Update

SECONDS_A_LINE = 10.0


class Bars:
    """One bar for each stage of each round."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._console = console
        self._progress = Progress(*columns, TextColumn("{task.fields[details]}"), console=console)
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._said: dict[tuple[str, str], float] = {}

    def __enter__(self) -> "Bars":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def show(self, update: Update) -> None:
        """Move the bar of this update's stage, or write a line; a note is always written."""
        if update.note:
            self._console.print(escape(update.note), highlight=False, soft_wrap=True)
        if self._console.is_terminal:
            self._move(update)
        else:
            self._line(update)

    def _move(self, update: Update) -> None:
        key = (update.round_id, update.stage)
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(escape(_name(update)), total=update.steps, details="")
        self._progress.update(self._bars[key], completed=update.step, total=update.steps, details=update.details)

    def _line(self, update: Update) -> None:
        key, now = (update.round_id, update.stage), time.monotonic()
        if update.step < update.steps and now - self._said.get(key, -SECONDS_A_LINE) < SECONDS_A_LINE:
            return
        self._said[key] = now
        words = f"{_name(update)} {update.step}/{update.steps} {update.details}".rstrip()
        self._console.print(escape(words), highlight=False, soft_wrap=True)


def _name(update: Update) -> str:
    return f"round {update.round_id[:8]}: {update.stage}"
