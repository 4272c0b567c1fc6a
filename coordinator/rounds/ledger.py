"""The rounds as the database knows them. Every method is one transaction, with its event in it.

Contributions' tensors are on the disk before their row is; a row is what makes a contribution exist.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from contracts_abi.model import Snapshot, Token
from coordinator.aggregation.secure import Answers
from coordinator.database import (
    ContributionRow,
    Database,
    GrantRow,
    ReleaseRow,
    RoundGrantRow,
    RoundRow,
    RoundTokenRow,
    ScoreReportRow,
    SecretSumRow,
)
from coordinator.rounds import budget, events, sums
from coordinator.rounds.acts import note_act, revoked_at
from coordinator.rounds.checks import Layers, Terms, check
from coordinator.rounds.files import store_folder
from coordinator.rounds.parts import TOO_FEW, Part, add_part, add_tokens, give_up, once_each
from coordinator.rounds.queries import (
    KEPT,
    REPLACED,
    absences,
    active_round,
    admitted_tokens,
    awaited_parts,
    contributed_grants,
    contribution_row,
    epoch_of,
    expected_grants,
    going,
    latest_release,
    live_grants_of,
    live_under,
    live_verdicts,
    mergeable,
    merged_ids,
    next_number,
    node_keys,
    part_of,
    part_or_none,
    parts_of,
    plan_of,
    released,
    round_row,
    scored_keys,
    scorer_keys,
    verdicts_of,
)
from coordinator.rounds.records import add_contribution, move
from coordinator.rounds.transitions import (
    ENDED,
    EXCHANGES,
    FIRST_STATE,
    GATHERING,
    RoundKind,
    RoundState,
    Standing,
    Step,
    next_step,
)
from coordinator.watching.lapses import Lapse, Watched
from protocol.acts import CancelRound, RemoveContribution, RevokeGrant
from protocol.canonical import sha256
from protocol.contribution import (
    Candidate,
    Contribution,
    ContributionHeader,
    ScoreReport,
    ScoreTask,
    SignedScoreReport,
    TrainTask,
    candidates_hash,
)
from protocol.counted import counted
from protocol.errors import Conflict, ContributionRefused, NotAllowed, NotFound
from protocol.grant import Grant, RoundPlan, StartRound
from protocol.manifest import Manifest, Removal, SignedOrder
from protocol.modes import Mode, PrivacySpent
from protocol.policy import Policy, Verdict, release_terms

ADAPTER, STATISTICS = "adapter.safetensors", "statistics.safetensors"
ASKED_BEFORE = (
    "Its machine has contributed as it was asked, under an earlier grant; this one counts from the next round on."
)
REVOKED = "The member revoked the grant."


@dataclass(frozen=True)
class LiveContribution:
    """Everything that merge and manifest need of one contribution."""

    contribution_id: str
    header: ContributionHeader
    signature: str
    grant: Grant
    grant_signature: str
    signed_at: Snapshot
    """The block at which the grant's signature was checked."""
    weight: int
    verdicts: tuple[Verdict, ...]
    """On the tokens it was trained on, in the header's order."""
    adapter: Path
    statistics: Path
    received_at: int
    """Unix seconds."""
    plan: RoundPlan
    """Of the round that it was made in."""
    snapshot: Snapshot
    """Of that round."""
    admitted: int
    """How many of the grant's tokens that round admitted."""


@dataclass(frozen=True)
class RoundFacts:
    """What of a round does not change while it lasts, and what the worker reads off it."""

    round_id: str
    kind: RoundKind
    state: RoundState
    epoch: int
    plan: RoundPlan
    policy_hash: str
    base_hash: str
    snapshot: Snapshot
    candidates_hash: str | None
    run_id: str | None
    deadline: int
    """Unix seconds."""
    paused_at: int | None
    """Since when it stands still, in Unix seconds."""


class Ledger:
    """Rounds, contributions, scores and releases. ``clock`` gives Unix seconds."""

    def __init__(
        self, database: Database, policy: Policy, folder: Path, scoring_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._policy = policy
        self._folder = folder
        self._scoring_seconds = scoring_seconds
        self._clock = clock

    # Opening ------------------------------------------------------------------------------------------------------

    def open_training(self, order: StartRound, signature: str, snapshot: Snapshot, parts: Sequence[Part]) -> str:
        """Open a round by an admin's checked order; its id.

        Raises:
            Conflict: the order was used before, another round is under way, too few members may take part, or what
                they granted cannot be published under one licence.
            NotAllowed: the policy has no such mode, or its ε is spent.
        """
        self._policy.require_mode(order.plan.mode)
        parts = once_each(parts)
        enough = self._enough(parts)
        with self._database.writing() as session:
            if session.scalar(select(RoundRow).where(RoundRow.order_nonce == order.nonce)):
                raise Conflict("This order was given before.", "Sign a new one, with a new nonce.")
            if other := active_round(session, RoundKind.TRAINING):
                raise Conflict(f"Round {other.round_id} is under way.", "Wait until it has ended.")
            if len(enough) < order.plan.quorum:
                raise Conflict(
                    f"{counted(len(enough), 'grant')} may take part at this block, and the quorum is "
                    f"{order.plan.quorum}.",
                    "Wait for more members, or lower the quorum.",
                )
            taking_part = [p for p in parts if p.grant.grant_id in enough]
            sums.require_members(order.plan, len(taking_part))
            self._require_budget(session, order.plan, {p.grant.member for p in taking_part})
            offered = [v for p in taking_part for v in p.offered]
            others = live_verdicts(session, order.base_hash, {p.grant.member for p in taking_part})
            release_terms(self._policy, [*offered, *others])
            now = self._now()
            row = self._add_round(
                session, RoundKind.TRAINING, order.digest()[:16], order.plan, order.base_hash, snapshot
            )
            row.policy_hash = order.policy_hash
            row.deadline = now + order.plan.deadline_seconds
            row.order, row.order_signature = order.canonical().decode(), signature
            row.order_nonce = order.nonce
            session.flush()
            for part in parts:
                add_part(session, row.round_id, part, None if part.grant.grant_id in enough else TOO_FEW)
            self._note(
                session,
                "round.opened",
                f"{order.admin} started a round for {counted(len(enough), 'member')} at block {snapshot.number}.",
                round_id=row.round_id,
                plan=order.plan.model_dump(mode="json"),
                snapshot=snapshot.model_dump(mode="json"),
            )
            return row.round_id

    def end_contributions(self, lapses: Collection[Lapse], snapshot: Snapshot) -> str | None:
        """Contributions die; when the newest release holds one of them, a removal round opens: its id."""
        with self._database.writing() as session:
            return self._end_all(session, lapses, snapshot)

    # Acts ---------------------------------------------------------------------------------------------------------

    def cancel(self, order: CancelRound, signature: str, snapshot: Snapshot) -> None:
        """End a training round by an admin's checked order.

        Raises:
            Conflict: the order was used before, the round has ended, or it is a removal.
            NotFound: there is no such round.
        """
        with self._database.writing() as session:
            note_act(session, order, signature, snapshot, self._now())
            row = round_row(session, order.round_id)
            if row.kind != RoundKind.TRAINING:
                raise Conflict("A removal is not cancelled: what it takes out has ended.", "Let it come to its end.")
            self._move(session, row, Step(RoundState.CANCELLED, f"{order.admin} cancelled it: {order.reason}"))

    def remove(self, order: RemoveContribution, signature: str, snapshot: Snapshot) -> str | None:
        """A contribution dies by an admin's checked order; the id of the removal round, where one opens.

        Raises:
            Conflict: the order was used before, or the contribution is not live.
            NotFound: there is no such contribution.
        """
        with self._database.writing() as session:
            note_act(session, order, signature, snapshot, self._now())
            row = contribution_row(session, order.contribution_id)
            if row.state not in KEPT:
                raise Conflict(f"Contribution {row.contribution_id} is {row.state} already.")
            reason = f"{order.admin} removed it: {order.reason}"
            return self._end_all(session, [Lapse(row.contribution_id, row.member, None, reason)], snapshot)

    def revoke(self, order: RevokeGrant, signature: str, snapshot: Snapshot) -> str | None:
        """A grant and all that is live under it end by its member's checked order; the removal round's id, if any.

        Raises:
            Conflict: the order was used before, or the grant is revoked already.
            NotFound: there is no such grant.
        """
        with self._database.writing() as session:
            grant = session.get(GrantRow, order.subject)
            if grant is None:
                raise NotFound(f"There is no grant {order.subject}.")
            if revoked_at(session, grant.grant_id) is not None:
                raise Conflict(f"Grant {grant.grant_id} is revoked already.")
            note_act(session, order, signature, snapshot, self._now())
            grant.replaced = True
            self._note(session, "grant.revoked", f"{grant.member} revoked a grant.", grant_id=grant.grant_id)
            live = live_under(session, grant.grant_id)
            lapses = [Lapse(one.contribution_id, one.member, None, REVOKED) for one in live]
            removal = self._end_all(session, lapses, snapshot)
            for part in awaited_parts(session, grant.grant_id):
                self._give_up(session, part, REVOKED)
            return removal

    def snapshots(self) -> dict[str, Snapshot]:
        """Round id → snapshot, of the rounds that have not ended."""
        with self._database.reading() as session:
            rows = session.scalars(select(RoundRow).where(RoundRow.state.not_in(ENDED)).order_by(RoundRow.number))
            return {row.round_id: Snapshot.model_validate_json(row.snapshot) for row in rows}

    def grants(self, round_id: str) -> list[Grant]:
        """Of everybody who has a part in the round, the oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(GrantRow)
                .join(RoundGrantRow, RoundGrantRow.grant_id == GrantRow.grant_id)
                .where(RoundGrantRow.round_id == round_id)
                .order_by(GrantRow.given_at, GrantRow.grant_id)
            )
            return [Grant.model_validate_json(row.document) for row in rows]

    def ask_again(self, round_id: str, snapshot: Snapshot, parts: Sequence[Part]) -> None:
        """The round's snapshot was forked away: it goes on at this one, with ``parts`` as they are there.

        Who has too few admitted tokens by now is not waited for, and what was trained on a token that is not admitted
        any more dies. Nobody's part grows, and nothing else is asked for again. A round with a secret sum is cancelled.
        """
        parts = once_each(parts)
        enough = self._enough(parts)
        with self._database.writing() as session:
            row = round_row(session, round_id)
            if row.state in ENDED:
                return
            before = Snapshot.model_validate_json(row.snapshot)
            row.snapshot = snapshot.model_dump_json()
            self._note(
                session,
                "round.forked",
                f"Block {before.number} of the round's snapshot is no longer in the chain; ownership was asked again "
                f"at block {snapshot.number}.",
                round_id=round_id,
                before=before.model_dump(mode="json"),
                snapshot=snapshot.model_dump(mode="json"),
            )
            if plan_of(row).mode is Mode.SECAGG:
                why = "A secret sum cannot do without one member's part; start the round again."
                self._move(session, row, Step(RoundState.CANCELLED, why))
                return
            for part in parts:
                self._narrow(session, row, part, snapshot, expected=part.grant.grant_id in enough)

    # Contributions ------------------------------------------------------------------------------------------------

    def receive(self, round_id: str, node_key: str, contribution: Contribution, layers: Layers) -> None:
        """Check a contribution and keep it durably. The same one again changes nothing.

        Raises:
            ContributionRefused: with the reason; that grant gives nothing to this round any more.
            Conflict: the round takes no contributions now, or has this grant's already.
            NotFound: the node key has no part in the round.
        """
        with self._database.reading() as session:
            terms = self._terms(session, round_id, node_key, layers, contribution.header.grant_id)
        try:
            check(contribution, terms)
            self._require_own(contribution.header)
        except ContributionRefused as refusal:
            self._refuse(round_id, terms.grant_id, contribution, refusal)
            raise
        files = {ADAPTER: contribution.adapter, STATISTICS: contribution.statistics}
        store_folder(self._folder / contribution.contribution_id, files)
        with self._database.writing() as session:
            self._accept(session, round_id, contribution)

    def decline(self, round_id: str, node_key: str, reason: str, asked: Collection[str] | None = None) -> None:
        """A member gives nothing to this round, for the reason it says.

        Raises:
            Conflict: the member has granted anew since this task went out, which names the grants ``asked`` only.
        """
        with self._database.writing() as session:
            part = part_of(session, round_id, node_key)
            if asked is not None and part.grant_id not in asked:
                raise Conflict("The member has granted anew since this task went out; it is asked again.")
            self._give_up(session, part, f"The member declined: {reason[:300]}")

    def note_asked(self, round_id: str, node_key: str) -> None:
        """The node was given the task of the moment."""
        with self._database.writing() as session:
            part = part_or_none(session, round_id, node_key)
            if part and part.asked_at is None:
                part.asked_at = self._now()

    def expected(self, round_id: str) -> frozenset[str]:
        """The grants that are (still) to contribute, or have."""
        with self._database.reading() as session:
            return expected_grants(parts_of(session, round_id))

    def note_failure(self, round_id: str, node_key: str, reason: str) -> None:
        """A node could not do its task; it is asked again. The same reason twice is told once."""
        with self._database.writing() as session:
            part = part_or_none(session, round_id, node_key)
            if part is None or not part.expected or part.reason == reason[:300]:
                return
            part.reason = reason[:300]
            self._note(
                session,
                "round.node-failed",
                f"A node could not do its task: {part.reason}",
                round_id=round_id,
                grant_id=part.grant_id,
            )

    def wanted_trainers(self, round_id: str) -> frozenset[str]:
        """Node keys whose contribution the round still waits for."""
        with self._database.reading() as session:
            parts = parts_of(session, round_id)
            missing = expected_grants(parts) - contributed_grants(session, round_id)
            return node_keys(session, missing)

    def live_contributions(self, round_id: str) -> list[LiveContribution]:
        """What a merge of this round takes now, sorted by id."""
        with self._database.reading() as session:
            rows = mergeable(session, round_row(session, round_id))
            live = [self._live(session, row) for row in rows]
        shares = self._policy.shares_capped([one.weight for one in live])
        return [replace(one, weight=weight) for one, weight in zip(live, shares, strict=True)]

    def watched(self) -> list[Watched]:
        """All live contributions with the verdicts on their tokens."""
        with self._database.reading() as session:
            rows = session.scalars(select(ContributionRow).where(ContributionRow.state == "live"))
            return [
                Watched(
                    row.contribution_id,
                    row.member,
                    Snapshot.model_validate_json(round_row(session, row.round_id).snapshot).number,
                    verdicts_of(session, row),
                )
                for row in rows
            ]

    # Scores -------------------------------------------------------------------------------------------------------

    def receive_scores(
        self, round_id: str, node_key: str, signed: SignedScoreReport, candidates: Sequence[Candidate]
    ) -> None:
        """Keep a member's scores of ``candidates``. The same node's again replace nothing.

        Raises:
            ContributionRefused: not about this candidate, not by this node, or not its signature.
            Conflict: the round takes no scores now.
        """
        signed.check_integrity()
        with self._database.writing() as session:
            row = round_row(session, round_id)
            if row.state != RoundState.SCORING:
                raise Conflict(f"Round {round_id} takes no scores: it is {row.state}.")
            _require_about(signed.report, row, node_key, candidates)
            if node_key not in scorer_keys(session, row):
                raise ContributionRefused("This node has no contribution in the candidate.")
            key = {"round_id": round_id, "node_key": node_key, "candidates_hash": signed.report.candidates_hash}
            if session.get(ScoreReportRow, key):
                return
            session.add(ScoreReportRow(**key, report=signed.canonical().decode()))
            self._note(
                session,
                "scores.received",
                f"A member scored the candidate on {counted(signed.report.images, 'image')}.",
                round_id=round_id,
                losses=[list(one) for one in signed.report.losses],
            )

    def decline_scoring(self, round_id: str, node_key: str, reason: str) -> None:
        """A member does not score the present candidate, for the reason it says."""
        with self._database.writing() as session:
            row = round_row(session, round_id)
            if row.state != RoundState.SCORING or node_key not in scorer_keys(session, row):
                return
            session.add(
                ScoreReportRow(
                    round_id=round_id,
                    node_key=node_key,
                    candidates_hash=row.candidates_hash,
                    declined=reason[:300],
                )
            )
            self._note(session, "scores.declined", f"A member does not score: {reason[:300]}", round_id=round_id)

    def scores(self, round_id: str) -> list[ScoreReport]:
        """The reports on the round's present candidate, by node key."""
        with self._database.reading() as session:
            row = round_row(session, round_id)
            rows = session.scalars(
                select(ScoreReportRow)
                .where(
                    ScoreReportRow.round_id == round_id, ScoreReportRow.candidates_hash == (row.candidates_hash or "")
                )
                .order_by(ScoreReportRow.node_key)
            )
            return [SignedScoreReport.model_validate_json(one.report).report for one in rows if one.report]

    def wanted_scorers(self, round_id: str) -> frozenset[str]:
        """Node keys whose scores of the present candidate are missing."""
        with self._database.reading() as session:
            row = round_row(session, round_id)
            return scorer_keys(session, row) - scored_keys(session, row)

    # Moving on ----------------------------------------------------------------------------------------------------

    def standing(self, round_id: str) -> Standing:
        """Everything that the next step depends on, as one consistent look."""
        with self._database.reading() as session:
            return self._standing(session, round_row(session, round_id))

    def take_step(self, round_id: str) -> Step | None:
        """Take the step that is due, if one is; it is decided again in the transaction that takes it."""
        if next_step(self.standing(round_id)) is None:
            return None
        with self._database.writing() as session:
            row = round_row(session, round_id)
            step = None if row.paused_at is not None else next_step(self._standing(session, row))
            if step:
                self._move(session, row, step)
            return step

    def move(self, round_id: str, step: Step, leaving: RoundState | None = None) -> None:
        """Raises Conflict when the round is paused, in no state that goes there, or not in ``leaving`` any more."""
        with self._database.writing() as session:
            row = going(round_row(session, round_id))
            if leaving is not None and row.state != leaving:
                raise Conflict(f"Round {round_id} is {row.state} by now.")
            self._move(session, row, step)

    def set_run(self, round_id: str, run_id: str, ended: str | None = None) -> None:
        """Note which Flower run carries the round; with ``ended``, how the one before it ended is told."""
        with self._database.writing() as session:
            row = round_row(session, round_id)
            before, row.run_id = row.run_id, run_id
            if ended is None:
                return
            missing = expected_grants(parts_of(session, round_id)) - contributed_grants(session, round_id)
            self._note(
                session,
                "round.run-again",
                "The Flower run that asks the members ended before the round did; another goes on where it stood.",
                round_id=round_id,
                run_id=run_id,
                before=before,
                status=ended,
                missing=len(missing),
            )

    def set_candidates(self, round_id: str, merged: Collection[str], candidates_hash: str) -> None:
        """The merge is done: these contributions, these candidates. The members score them next, but not in ``dp``.

        Raises:
            Conflict: the round is paused, or not in merging any more.
        """
        with self._database.writing() as session:
            row = going(round_row(session, round_id))
            row.merged, row.candidates_hash = json.dumps(sorted(merged)), candidates_hash
            row.scoring_since = self._now()
            step = Step(RoundState.SCORING, f"{counted(len(merged), 'contribution')} merged; the members score.")
            if plan_of(row).mode is Mode.DP:
                step = Step(RoundState.PUBLISHING, f"{counted(len(merged), 'contribution')} merged, with noise.")
            self._move(session, row, step)

    def require_budget(self, round_id: str) -> None:
        """Raises NotAllowed when a ``dp`` release of what is live now would tell of a member beyond the policy's ε."""
        with self._database.reading() as session:
            row = round_row(session, round_id)
            self._require_budget(session, plan_of(row), {one.member for one in mergeable(session, row)})

    def privacy_after(self, round_id: str) -> PrivacySpent | None:
        """What all releases tell of a member once this round's is out; None in other modes than ``dp``."""
        with self._database.reading() as session:
            row = round_row(session, round_id)
            plan, members = plan_of(row), {one.member for one in mergeable(session, row)}
            return budget.after(session, plan, members) if plan.mode is Mode.DP else None

    def publish(self, round_id: str, cid: str, manifest: Manifest) -> None:
        """The release is in the store and read back.

        Raises:
            Conflict: the live contributions have changed since the merge, and the round merges again; or it is paused.
            NotAllowed: another ``dp`` release came first, and with both the policy's ε would be spent.
        """
        with self._database.writing() as session:
            row = going(round_row(session, round_id))
            standing = self._standing(session, row)
            latest = latest_release(session)
            if standing.live != standing.merged or manifest.parent != (latest.cid if latest else None):
                raise Conflict("The contributions or the newest release have changed since the merge.")
            self._require_budget(session, manifest.plan, {one.member for one in manifest.contributions})
            row.cid = cid
            session.add(
                ReleaseRow(
                    number=latest.number + 1 if latest else 1,
                    cid=cid,
                    round_id=round_id,
                    kind=row.kind,
                    parent=manifest.parent,
                    manifest=manifest.canonical().decode(),
                    published_at=self._now(),
                )
            )
            self._move(session, row, Step(RoundState.PUBLISHED, f"Release {cid} is published."))
            self._note(session, "release.published", f"Release {cid} is out.", round_id=round_id, cid=cid)

    # Looking ------------------------------------------------------------------------------------------------------

    def active(self) -> list[str]:
        """Ids of the rounds that have not ended, oldest first."""
        with self._database.reading() as session:
            return list(
                session.scalars(select(RoundRow.round_id).where(RoundRow.state.not_in(ENDED)).order_by(RoundRow.number))
            )

    def facts(self, round_id: str) -> RoundFacts:
        """Raises NotFound."""
        with self._database.reading() as session:
            row = round_row(session, round_id)
            return RoundFacts(
                round_id=row.round_id,
                kind=RoundKind(row.kind),
                state=RoundState(row.state),
                epoch=row.epoch,
                plan=RoundPlan.model_validate_json(row.plan),
                policy_hash=row.policy_hash,
                base_hash=row.base_hash,
                snapshot=Snapshot.model_validate_json(row.snapshot),
                candidates_hash=row.candidates_hash,
                run_id=row.run_id,
                deadline=row.deadline,
                paused_at=row.paused_at,
            )

    def train_task(self, round_id: str) -> TrainTask:
        """What the nodes are told."""
        facts = self.facts(round_id)
        with self._database.reading() as session:
            terms = sums.terms_of(session, round_id)
            told = expected_grants(parts_of(session, round_id))
            if terms:
                told |= {signed.grant.grant_id for signed in sums.grants_behind(session, terms)}
            tokens = {one: tuple(sorted(admitted_tokens(session, round_id, one))) for one in told}
        return TrainTask(
            round_id=round_id,
            dao=self._policy.dao,
            plan=facts.plan,
            policy_hash=facts.policy_hash,
            base_hash=facts.base_hash,
            snapshot=facts.snapshot,
            tokens=tokens,
        )

    def score_task(self, round_id: str, candidates: tuple[Candidate, ...]) -> ScoreTask:
        """Raises Conflict when these are not the round's candidates now."""
        facts = self.facts(round_id)
        if facts.candidates_hash != candidates_hash(candidates):
            raise Conflict(f"Round {round_id} has other candidates now, or none yet.")
        return ScoreTask(
            round_id=round_id,
            candidates=candidates,
            gains=facts.plan.gains,
            seed=facts.plan.seed,
            base_hash=facts.base_hash,
        )

    def node_key(self, node_id: int) -> str | None:
        """The key of the node that the SuperLink calls so."""
        with self._database.reading() as session:
            return session.scalar(select(GrantRow.node_key).where(GrantRow.node_id == str(node_id)).limit(1))

    def latest_cid(self) -> str | None:
        """The newest release."""
        with self._database.reading() as session:
            latest = latest_release(session)
            return latest.cid if latest else None

    def order(self, round_id: str) -> SignedOrder | None:
        """The admin's order that opened the round; None for a removal."""
        with self._database.reading() as session:
            row = round_row(session, round_id)
            if row.order is None or row.order_signature is None:
                return None
            return SignedOrder(
                order=StartRound.model_validate_json(row.order),
                signature=row.order_signature,
                signed_at=Snapshot.model_validate_json(row.snapshot),
            )

    def exclusions(self, round_id: str) -> tuple[Verdict, ...]:
        """The verdicts that kept tokens out of the round; of a removal round, out of the releases it goes back to."""
        with self._database.reading() as session:
            rounds = {round_id} | {row.round_id for row in mergeable(session, round_row(session, round_id))}
            rows = session.scalars(
                select(RoundTokenRow)
                .where(RoundTokenRow.round_id.in_(rounds), ~RoundTokenRow.allow)
                .order_by(RoundTokenRow.token)
            )
            found = {row.token: Verdict.model_validate_json(row.verdict) for row in rows}
            return tuple(found.values())

    def removals(self) -> tuple[Removal, ...]:
        """Contributions of the newest release that have died since."""
        with self._database.reading() as session:
            return tuple(
                Removal(
                    contribution_id=row.contribution_id,
                    member=row.member,
                    token=Token.parse(row.lapsed_token) if row.lapsed_token else None,
                    block=Snapshot.model_validate_json(row.lapsed_at),
                    reason=row.reason or "",
                )
                for row in released(session)
                if row.state == "dead" and row.lapsed_at
            )

    # The parts of a transaction -----------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._clock())

    def _note(self, session: Session, kind: str, message: str, **facts: object) -> None:
        events.append(session, self._now(), kind, message, **facts)  # type: ignore[arg-type]

    def _end_all(self, session: Session, lapses: Collection[Lapse], snapshot: Snapshot) -> str | None:
        died = [lapse for lapse in lapses if self._end(session, lapse, snapshot)]
        release = latest_release(session)
        if release is None or active_round(session, RoundKind.REMOVAL):
            return None
        parent = round_row(session, release.round_id)
        removed = {lapse.contribution_id for lapse in died} & set(merged_ids(parent))
        if not removed:
            return None
        if plan_of(parent).mode is Mode.SECAGG:
            self._note(
                session,
                "release.outdated",
                "The newest release is a secret sum with a contribution that is no longer live. It cannot be taken "
                "out: start a new round.",
                cid=release.cid,
                contributions=sorted(removed),
            )
            return None
        number = next_number(session)
        row = self._add_round(
            session,
            RoundKind.REMOVAL,
            sha256(f"removal {number} {release.cid}".encode())[:16],
            plan_of(parent),
            parent.base_hash,
            snapshot,
        )
        row.policy_hash, row.deadline = parent.policy_hash, self._now()
        self._note(
            session,
            "round.opened",
            f"A removal round opened, for {counted(len(removed), 'contribution')} of the newest release that ended.",
            round_id=row.round_id,
            contributions=sorted(removed),
        )
        return row.round_id

    def _add_round(
        self, session: Session, kind: RoundKind, round_id: str, plan: RoundPlan, base_hash: str, snapshot: Snapshot
    ) -> RoundRow:
        row = RoundRow(
            round_id=round_id,
            number=next_number(session),
            kind=kind,
            state=FIRST_STATE[kind],
            epoch=epoch_of(session, base_hash),
            plan=plan.canonical().decode(),
            policy_hash=self._policy.digest(),
            base_hash=base_hash,
            snapshot=snapshot.model_dump_json(),
            opened_at=self._now(),
            deadline=self._now(),
        )
        session.add(row)
        return row

    def _move(self, session: Session, row: RoundRow, step: Step) -> None:
        if row.state in EXCHANGES and step.to not in ENDED and plan_of(row).mode is Mode.SECAGG:
            step = self._close_exchange(session, row, step)
        move(session, row, step, self._now())

    def _close_exchange(self, session: Session, row: RoundRow, step: Step) -> Step:
        """The step itself, or the end of the round where too few answered; the last exchange has nothing to close."""
        stage = sums.stage_of(session, row.round_id, RoundState(row.state))
        try:
            if not isinstance(stage, Answers):
                stage.close()
        except (Conflict, NotAllowed) as end:
            return Step(RoundState.FAILED, end.message)
        if row.state == RoundState.MASKING:
            row.merged = json.dumps([one.contribution_id for one in mergeable(session, row)])
        session.get_one(SecretSumRow, row.round_id).since = self._now()
        return step

    def _require_budget(self, session: Session, plan: RoundPlan, members: Collection[str]) -> None:
        budget.require(session, plan, members, self._policy.epsilon_limit)

    def _standing(self, session: Session, row: RoundRow) -> Standing:
        parts, live = parts_of(session, row.round_id), live_grants_of(session, row.round_id)
        exchanged = sums.exchanged(session, row)
        return Standing(
            kind=RoundKind(row.kind),
            state=RoundState(row.state),
            now=self._clock(),
            deadline=row.deadline,
            quorum=plan_of(row).quorum,
            expected=expected_grants(parts),
            contributed=live,
            set_aside=contributed_grants(session, row.round_id) - live,
            paused=row.paused_at is not None,
            absent=absences(session, row.round_id, live, exchanged) if row.state in EXCHANGES else (),
            live=frozenset(one.contribution_id for one in mergeable(session, row)),
            merged=frozenset(merged_ids(row)),
            needless=row.kind == RoundKind.REMOVAL and all(one.state == "live" for one in released(session)),
            scorers=scorer_keys(session, row),
            scored=scored_keys(session, row),
            scoring_ends=(row.scoring_since or 0) + self._scoring_seconds,
            exchanged=exchanged,
            is_sealed=plan_of(row).mode is Mode.SECAGG,
        )

    def _terms(self, session: Session, round_id: str, node_key: str, layers: Layers, grant_id: str) -> Terms:
        row, part = round_row(session, round_id), part_of(session, round_id, node_key, grant_id)
        _require_taking(row)
        return Terms(
            round_id=round_id,
            grant_id=part.grant_id,
            node_key=node_key,
            plan=RoundPlan.model_validate_json(row.plan),
            policy_hash=row.policy_hash,
            base_hash=row.base_hash,
            admitted=admitted_tokens(session, round_id, part.grant_id),
            layers=layers,
        )

    def _require_own(self, header: ContributionHeader) -> None:
        """No live contribution of another member has the same adapter; who came first keeps it."""
        named = f'"adapter_sha256":"{header.adapter_sha256}"'
        with self._database.reading() as session:
            others = ContributionRow.member != session.get_one(GrantRow, header.grant_id).member
            copied = select(ContributionRow).where(others, ContributionRow.state.in_(KEPT))
            if session.scalar(copied.where(ContributionRow.header.contains(named)).limit(1)):
                raise ContributionRefused("Another member has contributed this very adapter.", "Train one of your own.")

    def _accept(self, session: Session, round_id: str, contribution: Contribution) -> None:
        header = contribution.header
        if session.get(ContributionRow, contribution.contribution_id):
            return
        _require_taking(round_row(session, round_id))
        part = session.get_one(RoundGrantRow, (round_id, header.grant_id))
        if part.reason == REPLACED:
            self._take_back(session, part)
        if not part.expected:
            raise Conflict(f"The round does not take this grant's contribution: {part.reason}")
        if header.grant_id in contributed_grants(session, round_id):
            raise Conflict("The round has a contribution of this grant already.")
        if revoked_at(session, header.grant_id) is not None:  # between the admin's order and the round's opening
            raise Conflict("The member has revoked this grant.")
        row = add_contribution(session, contribution, header.grant_id, "live", None, self._now())
        part.reason = None
        self._note(
            session,
            "contribution.received",
            f"{row.member} contributed what was trained on {counted(len(header.tokens), 'token')}.",
            round_id=round_id,
            contribution_id=row.contribution_id,
            member=row.member,
            bytes=row.size,
        )

    def _take_back(self, session: Session, part: RoundGrantRow) -> None:
        """A machine answers under the grant that it was asked by; the newer one for the same machine counts later.

        Nothing, where the newer grant's contribution is here, or another machine was asked.
        """
        earlier = session.get_one(GrantRow, part.grant_id)
        newer = part_or_none(session, part.round_id, earlier.node_key)
        if newer is None or not newer.expected or newer.grant_id in contributed_grants(session, part.round_id):
            return
        if session.get_one(GrantRow, newer.grant_id).member == earlier.member:
            self._give_up(session, newer, ASKED_BEFORE)
            part.expected, part.reason = True, None

    def _refuse(self, round_id: str, grant_id: str, contribution: Contribution, refusal: ContributionRefused) -> None:
        with self._database.writing() as session:
            part = session.get_one(RoundGrantRow, (round_id, grant_id))
            if grant_id in contributed_grants(session, round_id):
                return
            if session.get(ContributionRow, contribution.contribution_id) is None:
                add_contribution(session, contribution, grant_id, "refused", refusal.message, self._now())
            self._give_up(session, part, f"The contribution was refused: {refusal.message}")

    def _enough(self, parts: Sequence[Part]) -> set[str]:
        """The grants that have as many admitted tokens as the policy asks for."""
        return {part.grant.grant_id for part in parts if len(part.admitted) >= self._policy.minimum_tokens}

    def _narrow(self, session: Session, row: RoundRow, part: Part, snapshot: Snapshot, *, expected: bool) -> None:
        """A part in the round as it is after a fork, and the end of contributions that it does not cover."""
        grant_id = part.grant.grant_id
        made = session.scalars(
            select(ContributionRow).where(
                ContributionRow.round_id == row.round_id,
                ContributionRow.grant_id == grant_id,
                ContributionRow.state.in_(KEPT),
            )
        ).all()
        lost = {v.token: v for v in part.verdicts if not v.allow}
        for one in made:
            used = ContributionHeader.model_validate_json(one.header).tokens
            if gone := next((lost[use.token] for use in used if use.token in lost), None):
                reason = f"Token {gone.token.token_id} of {gone.collection}: {gone.reason}"
                self._end(session, Lapse(one.contribution_id, one.member, gone.token, reason), snapshot)
        session.execute(
            delete(RoundTokenRow).where(RoundTokenRow.round_id == row.round_id, RoundTokenRow.grant_id == grant_id)
        )
        add_tokens(session, row.round_id, part)
        if not expected:
            stored = session.get_one(RoundGrantRow, (row.round_id, grant_id))
            self._give_up(session, stored, "Too few of its tokens are admitted at the round's new snapshot.")

    def _give_up(self, session: Session, part: RoundGrantRow, reason: str) -> None:
        give_up(session, part, reason, self._now())

    def _end(self, session: Session, lapse: Lapse, snapshot: Snapshot) -> bool:
        """Whether the contribution had not ended until now. A round that gathers does not ask its member again."""
        row = session.get_one(ContributionRow, lapse.contribution_id)
        if row.state not in KEPT:
            return False
        row.state, row.reason = "dead", lapse.reason
        row.lapsed_token = str(lapse.token) if lapse.token else None
        row.lapsed_at = snapshot.model_dump_json()
        self._note(
            session,
            "contribution.died",
            lapse.reason,
            contribution_id=row.contribution_id,
            member=row.member,
            token=row.lapsed_token,
            snapshot=snapshot.model_dump(mode="json"),
        )
        part = session.get_one(RoundGrantRow, (row.round_id, row.grant_id))
        if round_row(session, row.round_id).state in GATHERING:
            self._give_up(session, part, lapse.reason)
        return True

    def _live(self, session: Session, row: ContributionRow) -> LiveContribution:
        grant = session.get_one(GrantRow, row.grant_id)
        folder, made_in = self._folder / row.contribution_id, round_row(session, row.round_id)
        admitted = len(admitted_tokens(session, row.round_id, row.grant_id))
        return LiveContribution(
            contribution_id=row.contribution_id,
            header=ContributionHeader.model_validate_json(row.header),
            signature=row.signature,
            grant=Grant.model_validate_json(grant.document),
            grant_signature=grant.signature,
            signed_at=Snapshot.model_validate_json(grant.snapshot),
            weight=self._policy.weight_of(admitted),
            verdicts=verdicts_of(session, row),
            adapter=folder / ADAPTER,
            statistics=folder / STATISTICS,
            received_at=row.received_at,
            plan=RoundPlan.model_validate_json(made_in.plan),
            snapshot=Snapshot.model_validate_json(made_in.snapshot),
            admitted=admitted,
        )


def _require_taking(row: RoundRow) -> None:
    if row.state != RoundState.TRAINING:
        raise Conflict(f"Round {row.round_id} takes no contributions: it is {row.state}.")


def _require_about(report: ScoreReport, row: RoundRow, node_key: str, candidates: Sequence[Candidate]) -> None:
    told = (report.round_id, report.candidates_hash, report.node_key)
    if told != (row.round_id, row.candidates_hash, node_key) or report.candidates_hash != candidates_hash(candidates):
        raise ContributionRefused("The scores are about another round or other candidates, or another node's.")
    gains = len(RoundPlan.model_validate_json(row.plan).gains)
    if [len(losses) for losses in report.losses] != [gains] * len(candidates) or report.images < 1:
        raise ContributionRefused("The scores are not one for each candidate and gain, on at least one image.")
