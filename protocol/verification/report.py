"""What a verification found: named checks, each with its outcome and one sentence."""

from collections.abc import Callable, Iterable
from enum import StrEnum

from rich.markup import escape
from rich.table import Table

from protocol.canonical import Document
from protocol.errors import CoterieError, Unreachable


class Outcome(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    OPEN = "not checked"


class Check(Document):
    """One question, and what came of it."""

    name: str
    outcome: Outcome
    said: str


class Report(Document):
    """Everything that was asked of one release."""

    cid: str
    """Computed from the files as they are."""
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Nothing failed; something may still be unchecked."""
        return not any(one.outcome is Outcome.FAILED for one in self.checks)

    @property
    def unchecked(self) -> tuple[Check, ...]:
        return tuple(one for one in self.checks if one.outcome is Outcome.OPEN)


class NotChecked(Exception):
    """Raised within a check: it cannot be answered here, for the reason it says."""


def checked(name: str, question: Callable[[], str]) -> Check:
    """Ask one question: what it returns is said of the pass, what it raises of the failure.

    A node that does not answer is no word against a release.
    """
    try:
        return Check(name=name, outcome=Outcome.PASSED, said=question())
    except NotChecked as reason:
        return Check(name=name, outcome=Outcome.OPEN, said=str(reason))
    except Unreachable as error:
        return Check(name=name, outcome=Outcome.OPEN, said=error.message)
    except CoterieError as error:
        return Check(name=name, outcome=Outcome.FAILED, said=error.message)


def report_table(checks: Iterable[Check]) -> Table:
    """For people: a row a check."""
    table = Table("check", "outcome", "what was found")
    colours = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.OPEN: "yellow"}
    for one in checks:
        table.add_row(one.name, f"[{colours[one.outcome]}]{one.outcome}[/]", escape(one.said))
    return table
