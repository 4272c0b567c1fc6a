"""A grant's part in a round: what it is, and the rows that it has. Within the caller's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from contracts_abi.model import Token
from coordinator.database import RoundGrantRow, RoundTokenRow
from coordinator.eligibility.once import each_token_once
from coordinator.rounds import events
from protocol.grant import Grant
from protocol.policy import Verdict

TOO_FEW = "Too few of its tokens are admitted at the round's snapshot."


@dataclass(frozen=True)
class Part:
    """A grant's part in a round that opens: the verdicts on its tokens at the snapshot, and on denied others."""

    grant: Grant
    verdicts: tuple[Verdict, ...]

    @property
    def admitted(self) -> frozenset[Token]:
        granted = set(self.grant.tokens)
        return frozenset(v.token for v in self.verdicts if v.allow and v.token in granted)

    @property
    def offered(self) -> list[Verdict]:
        """The verdicts on what is admitted and granted."""
        return [v for v in self.verdicts if v.token in self.admitted]


def once_each(parts: Sequence[Part]) -> list[Part]:
    """The same parts, a token that several of them offer with the first of them only."""
    verdicts = each_token_once([(part.grant, part.verdicts) for part in parts])
    return [replace(part, verdicts=own) for part, own in zip(parts, verdicts, strict=True)]


def add_part(session: Session, round_id: str, part: Part, why_not: str | None) -> None:
    """The grant is to contribute, unless there is a reason why not."""
    session.add(
        RoundGrantRow(round_id=round_id, grant_id=part.grant.grant_id, expected=why_not is None, reason=why_not)
    )
    add_tokens(session, round_id, part)


def add_tokens(session: Session, round_id: str, part: Part) -> None:
    """Every verdict that the release may have to tell."""
    granted = set(part.grant.tokens)
    for verdict in part.verdicts:
        if verdict.allow and verdict.token not in granted:
            continue  # admitted, but the member did not offer it
        session.add(
            RoundTokenRow(
                round_id=round_id,
                grant_id=part.grant.grant_id,
                token=str(verdict.token),
                allow=verdict.allow,
                verdict=verdict.canonical().decode(),
            )
        )


def give_up(session: Session, part: RoundGrantRow, reason: str, now: int) -> None:
    """The round waits for this grant no longer."""
    if not part.expected:
        return
    part.expected, part.reason = False, reason
    events.append(session, now, "round.without", reason, round_id=part.round_id, grant_id=part.grant_id)
