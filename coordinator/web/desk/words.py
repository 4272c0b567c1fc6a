"""Verdicts in few lines: tokens that share a collection and a reason, together. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.policy import Verdict

IDS_SHOWN = 12


@dataclass(frozen=True)
class Together:
    """Tokens of one collection about which the same is said: the first ids, and how many more there are."""

    collection: str
    reason: str
    rule: str
    ids: tuple[int, ...]
    more: int

    @property
    def count(self) -> int:
        return len(self.ids) + self.more


def together(verdicts: Iterable[Verdict]) -> tuple[Together, ...]:
    """The verdicts, those that say the same as one."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for one in sorted(verdicts, key=lambda verdict: verdict.token):
        found.setdefault((one.collection, one.reason, one.rule), []).append(one.token.token_id)
    return tuple(
        Together(collection, reason, rule, tuple(ids[:IDS_SHOWN]), max(0, len(ids) - IDS_SHOWN))
        for (collection, reason, rule), ids in found.items()
    )
