"""How the demo tells its story: numbered steps in plain words, a bar for each member, one table at the end.

On a terminal the bars are alive; anywhere else every stage is one plain line when it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.rule import Rule

from client.progress import Update

PLAIN_WIDTH = 120
Show = Callable[[str, Update], None]


class Terminal:
    """Where the story goes, and how long each of its steps took."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, PLAIN_WIDTH)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, title: str, words: str) -> Iterator[None]:
        """A numbered step, timed: its title, and in plain words what happens."""
        number = len(self.seconds) + 1
        self.seconds[title] = 0.0
        self.console.print()
        self.console.print(Rule(f"[bold]{number} · {escape(title)}[/]", align="left", style="dim"))
        self.console.print(f"[dim]{escape(words)}[/]")
        begin = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - begin

    def say(self, text: str, style: str = "") -> None:
        """One line, never broken: CIDs and paths are there to be copied."""
        self.console.print(f"   {escape(text)}", style=style, soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        """A table or the like."""
        self.console.print(what)

    @contextmanager
    def bars(self, members: Sequence[str]) -> Iterator[Show]:
        """Within, the function given shows a member's newest progress."""
        if not self.console.is_terminal:
            yield self._line_by_stage
            return
        columns = (
            TextColumn("   {task.fields[member]:6}{task.description:12}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            tasks = {m: progress.add_task("waits", total=1, member=m, loss="") for m in members}
            yield lambda member, update: _move(progress, tasks[member], update)

    def _line_by_stage(self, member: str, update: Update) -> None:
        if update.step == update.steps:
            loss = "" if update.loss is None else f", loss {update.loss:.3f}"
            self.say(f"{member}: {update.stage} done, {update.steps} of {update.steps} in {update.seconds:.1f} s{loss}")


def _move(progress: Progress, task: TaskID, update: Update) -> None:
    """The member's bar, begun again when a new stage begins."""
    if progress.tasks[task].description != update.stage:
        progress.reset(task, total=update.steps, description=update.stage)
    loss = "" if update.loss is None else f"loss {update.loss:.3f}"
    progress.update(task, completed=update.step, total=update.steps, loss=loss)


def amount(size: int) -> str:
    """Bytes as a person reads them."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1000:.1f} kB" if size < 1_000_000 else f"{size / 1_000_000:.2f} MB"
