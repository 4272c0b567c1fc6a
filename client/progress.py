"""Progress as a file: the task's process writes lines, whoever shows bars (``coterie join``, the demo) reads them."""

from pathlib import Path

from pydantic import ValidationError

from protocol.canonical import Document

FILE = "progress.jsonl"
OWN = "own"
"""Stands for a round's id where a member trains alone."""


class Update(Document):
    """One line: how far a stage of a round's task is."""

    round_id: str
    stage: str
    step: int
    steps: int
    loss: float | None = None
    seconds: float = 0.0
    """Since the stage began."""
    images_per_second: float | None = None
    seconds_left: float | None = None
    memory_bytes: int | None = None
    validation: float | None = None
    """Loss on held-out tokens at fixed noise."""
    note: str = ""
    """A sentence that a person should read."""

    @property
    def details(self) -> str:
        """What stands beside the bar: loss, speed, time left, memory, as far as they are known."""
        told = (
            ("loss {:.3f}", self.loss),
            ("held out {:.3f}", self.validation),
            ("{:.1f} images/s", self.images_per_second),
            ("{:.1f} GB", self.memory_bytes and self.memory_bytes / 1e9),
            ("{} left", None if self.seconds_left is None else _clock(self.seconds_left)),
        )
        return " · ".join(words.format(value) for words, value in told if value is not None)


class ProgressWriter:
    """Appends updates to ``progress.jsonl`` in the member's home folder."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE

    def write(self, update: Update) -> None:
        """One write per line, so that a reader never sees two lines mixed."""
        with self._path.open("ab") as file:
            file.write(update.model_dump_json().encode() + b"\n")


class ProgressTail:
    """Reads what was appended since the last look, beginning at the file's end."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._position = self._path.stat().st_size if self._path.exists() else 0

    def new(self) -> list[Update]:
        """The complete lines that came since; a line still being written waits for the next look."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            complete = file.read().rpartition(b"\n")[0]
        self._position += len(complete) + 1 if complete else 0
        return [update for line in complete.splitlines() if (update := _parse(line))]


def _clock(seconds: float) -> str:
    """As 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _parse(line: bytes) -> Update | None:
    try:
        return Update.model_validate_json(line)
    except ValidationError:
        return None  # written by another version: bars are not worth an error
