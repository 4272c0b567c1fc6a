"""The licence of a release: the strictest of what went in, or why there is none.

A share-alike licence may only be passed on as it is, with no duty beyond its own, so it does not go together with one
that asks for more, or with one that ends. Such a set cannot be published: the policy can name a ``release_licence``,
which denies what does not fit token by token; without one, a round with such a set does not open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from protocol.canonical import Document
from protocol.errors import Conflict
from protocol.policy.document import Policy
from protocol.policy.duties import Duty, DutyKind, union
from protocol.policy.licences import Licence, OnTransfer

OWN_WORD = "the DAO's own word"
"""Stands for a licence where the DAO's word on a token stands alone."""


class Admitted(Protocol):
    """The part of a verdict that a release depends on."""

    @property
    def licence(self) -> str | None: ...
    @property
    def duties(self) -> tuple[Duty, ...]: ...
    @property
    def on_transfer(self) -> OnTransfer: ...


class ReleaseTerms(Document):
    """What a release is published under."""

    licence: str
    duties: tuple[Duty, ...]


def licences_of(admitted: Iterable[Admitted]) -> tuple[str, ...]:
    """What a contribution was trained under, by name, sorted."""
    return tuple(sorted({one.licence or OWN_WORD for one in admitted}))


def misfit(name: str, asked: Sequence[Duty], on_transfer: OnTransfer, into: Licence) -> str:
    """Why what is under the licence ``name`` cannot be published under ``into``; empty where it can."""
    if name == into.name:
        return ""
    if missing := next((duty for duty in asked if not _covers(into, duty)), None):
        return f"{name} asks for {missing}, and {into.name} does not."
    if on_transfer is not OnTransfer.KEEP and into.on_transfer is OnTransfer.KEEP:
        return f"{name} ends when a token is sold, and {into.name} is given for ever."
    return ""


def release_terms(policy: Policy, admitted: Iterable[Admitted]) -> ReleaseTerms:
    """What may be published of everything ``admitted``, under one licence.

    Raises:
        Conflict: there is no such licence; names two that do not go together.
    """
    verdicts = list(admitted)
    duties = union(*(one.duties for one in verdicts))
    names = sorted({name for one in verdicts for name in (one.licence or OWN_WORD).split(" AND ")})
    shared = sorted({duty.parameter for duty in duties if duty.kind is DutyKind.SHARE_ALIKE})
    if policy.release_licence is not None:
        shared = [policy.release_licence]
    if len(shared) > 1:
        raise _conflict(f"{shared[0]} and {shared[1]} each ask to be passed on as they are.")
    if shared and (published := policy.licence(shared[0])):
        for one in verdicts:
            if why := _misfit_of(policy, one, published):
                raise _conflict(why)
        return ReleaseTerms(licence=published.name, duties=union(published.duties, duties))
    return ReleaseTerms(licence=" AND ".join(_strictest(policy, names)), duties=duties)


def _misfit_of(policy: Policy, one: Admitted, into: Licence) -> str:
    if one.licence is None:
        return ""  # the DAO has said so itself
    ends = [_on_transfer(policy, name, one.on_transfer) for name in one.licence.split(" AND ")]
    return misfit(one.licence, one.duties, max(ends, key=lambda end: end.strictness), into)


def _on_transfer(policy: Policy, name: str, otherwise: OnTransfer) -> OnTransfer:
    """The licence's own, which a policy that is stricter on sales does not change."""
    licence = policy.licence(name)
    return licence.on_transfer if licence else otherwise


def _strictest(policy: Policy, names: Sequence[str]) -> list[str]:
    """Without those whose every term another of them has too: CC0 beside anything, CC-BY beside CC-BY-NC."""
    known = {name: licence for name in names if (licence := policy.licence(name))}

    def covered(name: str) -> bool:
        mine = known.get(name)
        if mine is None or mine.on_transfer is not OnTransfer.KEEP:
            return False
        return any(
            other != name and not misfit(name, mine.duties, mine.on_transfer, licence)
            for other, licence in known.items()
            if licence.on_transfer is not OnTransfer.KEEP or len(licence.duties) > len(mine.duties)
        )

    return [name for name in names if not covered(name)]


def _covers(licence: Licence, duty: Duty) -> bool:
    if duty.kind is DutyKind.SHARE_ALIKE:
        return duty.parameter == licence.name
    if duty.kind is DutyKind.CONTENT:
        return duty in licence.duties
    return any(own.kind is duty.kind for own in licence.duties)


def _conflict(why: str) -> Conflict:
    return Conflict(
        f"What would be merged cannot be published under one licence: {why}",
        "Name a release_licence in the policy: what does not fit is then denied, token by token. "
        "What was contributed before has to be removed.",
    )
