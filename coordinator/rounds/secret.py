"""The ledger of secret sums: what a ``secagg`` round asks and takes. Every method is one transaction.

``coordinator.rounds.ledger`` moves the round from one exchange to the next, as it does any other.
"""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy.orm import Session

from coordinator.aggregation.secure import Stage
from coordinator.database import Database, GrantRow, RoundGrantRow, RoundRow, SecretSumRow
from coordinator.rounds import events, sums
from coordinator.rounds.checks import Layers, Terms, check_header, fixed_factors
from coordinator.rounds.files import store_folder
from coordinator.rounds.queries import admitted_tokens, contributed_grants, part_of, parts_of, round_row
from coordinator.rounds.records import add_contribution
from coordinator.rounds.transitions import EXCHANGES, RoundState
from protocol.contribution import Contribution
from protocol.counted import counted
from protocol.errors import Conflict, ContributionRefused
from protocol.grant import RoundPlan
from protocol.masking import MaskingTerms, SecretRound, weights_of
from protocol.modes import IntArray
from protocol.policy import Policy


class SecretSums:
    """Exchanges of rounds in the mode ``secagg``. ``clock`` gives Unix seconds."""

    def __init__(self, database: Database, policy: Policy, folder: Path, clock: Callable[[], float]) -> None:
        """``folder`` is where contributions' files lie."""
        self._database, self._policy, self._folder, self._clock = database, policy, folder, clock

    def begin(self, round_id: str, layers: Layers) -> None:
        """Fix the terms, before anybody may decline; once fixed they stay."""
        with self._database.writing() as session:
            if session.get(SecretSumRow, round_id):
                return
            row = round_row(session, round_id)
            terms = self._terms(session, row, layers)
            session.add(SecretSumRow(round_id=round_id, terms=terms.canonical().decode(), since=int(self._clock())))

    def opening(self, round_id: str) -> SecretRound | None:
        """What members are told before they train. None until the terms are fixed."""
        with self._database.reading() as session:
            terms = sums.terms_of(session, round_id)
            return SecretRound(terms=terms, others=sums.grants_behind(session, terms)) if terms else None

    def stage(self, round_id: str) -> tuple[RoundState, Stage]:
        """The present exchange. Raises Conflict when the round is in none."""
        with self._database.reading() as session:
            row = round_row(session, round_id)
            _require_exchange(row)
            state = RoundState(row.state)
            return state, sums.stage_of(session, round_id, state)

    def wanted(self, round_id: str, state: RoundState) -> frozenset[str]:
        """Node keys whose answer in this exchange is missing; nobody's in one that is not the present."""
        with self._database.reading() as session:
            row = round_row(session, round_id)
            if row.state != state:
                return frozenset()
            return sums.asked(session, row) - sums.answered(session, round_id, state)

    def receive(self, round_id: str, node_key: str, said: bytes) -> None:
        """Keep an answer to the present exchange, if it is not that of a masked update.

        Raises:
            ContributionRefused: it is not what the exchange asks of this node.
            Conflict: the round is in no such exchange.
        """
        with self._database.writing() as session:
            row = round_row(session, round_id)
            _require_exchange(row)
            if row.state == RoundState.MASKING:
                raise ContributionRefused("A masked update comes with its words and a header.")
            _require_own(sums.take(session, row, said).document.node_key, node_key)

    def receive_update(self, round_id: str, node_key: str, said: bytes, contribution: Contribution) -> None:
        """Keep a masked update durably: ``contribution.adapter`` are its words. The same again changes nothing.

        Raises:
            ContributionRefused: with the reason.
            Conflict: the round takes no masked updates now.
        """
        with self._database.reading() as session:
            row = round_row(session, round_id)
            _require_masking(row)
            check_header(contribution.header, self._header_terms(session, row, node_key))
        contribution.check_integrity()
        store_folder(self._folder / contribution.contribution_id, {sums.WORDS: contribution.adapter})
        with self._database.writing() as session:
            row = round_row(session, round_id)
            _require_masking(row)
            signed = sums.take(session, row, said, contribution.adapter)
            _require_own(signed.document.node_key, node_key)
            self._add(session, contribution)

    def total(self, round_id: str) -> tuple[IntArray, dict[str, int]]:
        """The sum over the survivors, (size,), and the weight that each contribution has in it.

        Raises:
            Conflict: too few shares came, or a false one.
        """
        with self._database.reading() as session:
            terms = sums.terms_of(session, round_id)
            assert terms is not None
            found = sums.contributions(session, round_id)
            weights = {contribution_id: terms.weights[node_key] for contribution_id, node_key in found.items()}
            return sums.total(session, round_id, self._folder), weights

    def _add(self, session: Session, contribution: Contribution) -> None:
        header = contribution.header
        if header.grant_id in contributed_grants(session, header.round_id):
            return
        now = int(self._clock())
        row = add_contribution(session, contribution, header.grant_id, "live", None, now)
        session.get_one(RoundGrantRow, (header.round_id, header.grant_id)).reason = None
        events.append(
            session,
            now,
            "contribution.received",
            f"{row.member} put a masked update into the sum, trained on {counted(len(header.tokens), 'token')}.",
            round_id=header.round_id,
            contribution_id=row.contribution_id,
            member=row.member,
            bytes=row.size,
        )

    def _terms(self, session: Session, row: RoundRow, layers: Layers) -> MaskingTerms:
        plan = RoundPlan.model_validate_json(row.plan)
        factors = fixed_factors(layers, row.base_hash, plan)
        parts = [part.grant_id for part in parts_of(session, row.round_id) if part.expected]
        tokens = {
            session.get_one(GrantRow, one).node_key: len(admitted_tokens(session, row.round_id, one)) for one in parts
        }
        return MaskingTerms(
            round_id=row.round_id,
            plan_hash=plan.digest(),
            factors_hash=factors.digest(),
            weights=weights_of(self._policy, tokens),
            size=factors.size,
            grid=plan.grid,
        )

    def _header_terms(self, session: Session, row: RoundRow, node_key: str) -> Terms:
        part = part_of(session, row.round_id, node_key)
        return Terms(
            round_id=row.round_id,
            grant_id=part.grant_id,
            node_key=node_key,
            plan=RoundPlan.model_validate_json(row.plan),
            policy_hash=row.policy_hash,
            base_hash=row.base_hash,
            admitted=admitted_tokens(session, row.round_id, part.grant_id),
            layers={},
        )


def _require_exchange(row: RoundRow) -> None:
    if row.state not in EXCHANGES:
        raise Conflict(f"Round {row.round_id} exchanges nothing: it is {row.state}.")


def _require_masking(row: RoundRow) -> None:
    if row.state != RoundState.MASKING:
        raise Conflict(f"Round {row.round_id} takes no masked updates: it is {row.state}.")


def _require_own(named: str, sender: str) -> None:
    if named != sender:
        raise ContributionRefused("The answer is another node's than the one that sent it.")
