"""The exchanges of a ``secagg`` round in the database: one signed row a node and exchange, masked words as files.

``coordinator.aggregation.secure`` says what each stage takes and when it may close; here it is rebuilt from the rows,
which were checked when they came. All that the coordinator holds opens one sum only: that of the survivors whom a
quorum confirmed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.aggregation.secure import Answers, Confirmations, Inputs, Keys, Shares, Stage
from coordinator.database import ContributionRow, ExchangeRow, GrantRow, RoundGrantRow, RoundRow, SecretSumRow
from coordinator.rounds.queries import expected_grants, node_keys, parts_of
from coordinator.rounds.transitions import EXCHANGES, Exchanged, RoundState
from protocol.canonical import Document
from protocol.errors import Conflict, ContributionRefused
from protocol.grant import Grant, RoundPlan, SignedGrant
from protocol.masking import (
    LEAST_MEMBERS,
    Confirmation,
    KeyAdvert,
    MaskedInput,
    MaskingTerms,
    SealedShares,
    Signed,
    UnmaskAnswer,
    two_thirds,
)
from protocol.modes import IntArray, Mode

WORDS = "words.bin"
_BEFORE = {
    RoundState.SHARING: RoundState.TRAINING,
    RoundState.MASKING: RoundState.SHARING,
    RoundState.CONFIRMING: RoundState.MASKING,
    RoundState.UNMASKING: RoundState.MASKING,
}
"""Whose answer in one exchange lets them take part in another: who sent an update and did not confirm may answer."""
_SAID: Mapping[RoundState, type[Signed[Any]]] = {
    RoundState.TRAINING: Signed[KeyAdvert],
    RoundState.SHARING: Signed[SealedShares],
    RoundState.MASKING: Signed[MaskedInput],
    RoundState.CONFIRMING: Signed[Confirmation],
    RoundState.UNMASKING: Signed[UnmaskAnswer],
}


def require_members(plan: RoundPlan, members: int) -> None:
    """Raises Conflict when so few cannot make the secret sum that the plan asks for."""
    if plan.mode is Mode.SECAGG and members < LEAST_MEMBERS:
        raise Conflict(
            f"{members} members are too few for a secret sum: it takes {LEAST_MEMBERS}.",
            "Wait for more members, or plan a round in another mode.",
        )


def terms_of(session: Session, round_id: str) -> MaskingTerms | None:
    """None until the worker has fixed them."""
    row = session.get(SecretSumRow, round_id)
    return MaskingTerms.model_validate_json(row.terms) if row else None


def stage_of(session: Session, round_id: str, state: RoundState) -> Stage:
    """An exchange with all that was said in it, in a round whose terms are fixed."""
    terms = terms_of(session, round_id)
    assert terms is not None
    stage: Any = Keys(terms, _said(session, round_id, EXCHANGES[0]))
    for each in EXCHANGES[1 : EXCHANGES.index(state) + 1]:
        stage = replace(stage.close(), taken=_said(session, round_id, each))
    return stage  # type: ignore[no-any-return]


def asked(session: Session, row: RoundRow) -> frozenset[str]:
    """The node keys that may answer in the present exchange, without those that declined."""
    expected = node_keys(session, expected_grants(parts_of(session, row.round_id)))
    before = _BEFORE.get(RoundState(row.state))
    return expected & answered(session, row.round_id, before) if before else expected


def answered(session: Session, round_id: str, state: RoundState) -> frozenset[str]:
    """The node keys whose answer in this exchange is stored."""
    rows = select(ExchangeRow.node_key).where(ExchangeRow.round_id == round_id, ExchangeRow.state == state.value)
    return frozenset(session.scalars(rows))


def exchanged(session: Session, row: RoundRow) -> Exchanged | None:
    """How the present exchange stands; None where the round has none."""
    begun = session.get(SecretSumRow, row.round_id)
    if begun is None or row.state not in EXCHANGES:
        return None
    state, may = RoundState(row.state), asked(session, row)
    there = answered(session, row.round_id, state)
    is_last = state is RoundState.UNMASKING and len(there) >= two_thirds(len(may))
    seconds = RoundPlan.model_validate_json(row.plan).exchange_seconds
    return Exchanged(
        asked=may,
        answered=there,
        ends=row.deadline if state is RoundState.TRAINING else begun.since + seconds,
        enough=is_last and cast(Answers, stage_of(session, row.round_id, state)).is_enough,
    )


def take(session: Session, row: RoundRow, said: bytes, words: bytes = b"") -> Signed[Any]:
    """Check one answer and keep it. The same again changes nothing.

    Raises:
        ContributionRefused: it is not what the exchange asks for.
    """
    state = RoundState(row.state)
    try:
        signed = _SAID[state].model_validate_json(said)
    except ValueError as error:
        raise ContributionRefused(
            "The answer is not what this exchange asks for.", "Ask for the task again."
        ) from error
    if signed.document.node_key not in asked(session, row):
        raise ContributionRefused("This node is not asked in this exchange.")
    stage: Any = stage_of(session, row.round_id, state)
    stage.take(signed, words) if isinstance(stage, Inputs) else stage.take(signed)
    key = (row.round_id, signed.document.node_key, state.value)
    if session.get(ExchangeRow, key) is None:
        session.add(
            ExchangeRow(
                round_id=row.round_id,
                node_key=signed.document.node_key,
                state=state.value,
                said=signed.canonical().decode(),
            )
        )
    return signed


def told(stage: Stage) -> Document:
    """What every node is told in this exchange."""
    match stage:
        case Keys():
            return stage.terms
        case Shares() | Inputs():
            return stage.roster
        case Confirmations():
            return stage.survivors
        case Answers():
            return stage.request


def grants_behind(session: Session, terms: MaskingTerms) -> tuple[SignedGrant, ...]:
    """The signed grant behind every node key of the terms: what shows a member that the others are not invented.

    Who has declined since is among them, for the terms name it still.
    """
    rows = session.scalars(
        select(GrantRow)
        .join(RoundGrantRow, RoundGrantRow.grant_id == GrantRow.grant_id)
        .where(RoundGrantRow.round_id == terms.round_id, GrantRow.node_key.in_(terms.weights))
        .order_by(GrantRow.grant_id)
    )
    return tuple(SignedGrant(grant=Grant.model_validate_json(r.document), signature=r.signature) for r in rows)


def total(session: Session, round_id: str, folder: Path) -> IntArray:
    """The sum over the survivors, exactly, (size,), from the answers and the masked words under ``folder``.

    Raises:
        Conflict: a secret has too few shares, or was shared wrongly.
    """
    stage = cast(Answers, stage_of(session, round_id, RoundState.UNMASKING))
    return stage.total(_words(session, round_id, folder))


def contributions(session: Session, round_id: str) -> dict[str, str]:
    """The live contributions of the round, each with its node key."""
    rows = session.execute(
        select(ContributionRow.contribution_id, GrantRow.node_key)
        .join(GrantRow, GrantRow.grant_id == ContributionRow.grant_id)
        .where(ContributionRow.round_id == round_id, ContributionRow.state == "live")
    )
    return dict(rows.all())


def _words(session: Session, round_id: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    for contribution_id, node_key in contributions(session, round_id).items():
        yield node_key, (folder / contribution_id / WORDS).read_bytes()


def _said(session: Session, round_id: str, state: RoundState) -> dict[str, Any]:
    rows = session.scalars(
        select(ExchangeRow).where(ExchangeRow.round_id == round_id, ExchangeRow.state == state.value)
    )
    return {row.node_key: _SAID[state].model_validate_json(row.said) for row in rows}
