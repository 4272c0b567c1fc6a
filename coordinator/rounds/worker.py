"""The loop that moves rounds on. Everything it needs to know is in the database: kill it anywhere, start it again."""

import fcntl
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Protocol

import structlog

from contracts_abi.asking import require_canonical
from contracts_abi.model import Snapshot
from contracts_abi.ownership.discovery import Sources
from contracts_abi.rpc import Rpc
from coordinator.aggregation.gain import choose
from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.eligibility.policies import kept
from coordinator.eligibility.verdicts import opening_verdicts, take_snapshot
from coordinator.lease import TRY_SECONDS
from coordinator.releases.build import MANIFEST, ReleaseDraft, build, published_files
from coordinator.releases.signing import make_key
from coordinator.releases.store import CarStore
from coordinator.rounds import candidate, private
from coordinator.rounds.candidate import Candidates, without
from coordinator.rounds.checks import adapted_layers, fixed_factors
from coordinator.rounds.latecomers import Latecomers
from coordinator.rounds.ledger import Ledger, LiveContribution, RoundFacts
from coordinator.rounds.merging import MergeOrder, Ordered, merge_in_child
from coordinator.rounds.secret import SecretSums
from coordinator.rounds.transitions import EXCHANGES, RoundState, Step
from coordinator.watching.forks import Forks
from coordinator.watching.watcher import Watcher
from coordinator.webhooks.delivery import Webhooks
from coordinator.webhooks.hooks import load_hooks
from coordinator.wiring import ledger_of, pinning_of, secret_sums_of, sources_of
from protocol.adapter import load_adapter
from protocol.contribution import CandidateName, ScoreReport
from protocol.errors import BadInput, Busy, Conflict, CoterieError, NotAllowed, Unreachable
from protocol.grant import Grant, RoundPlan
from protocol.manifest import BaseReference, GainScore, Manifest, MergedContribution
from protocol.modes import Mode
from protocol.policy import Policy, Verdict, licences_of, release_terms

RUN_CHECK_SECONDS = 5.0
RUN_PAUSE_SECONDS = 300.0
"""The longest wait before a run that keeps ending is started again; the first waits are of ``RUN_CHECK_SECONDS``."""
STABLE_SECONDS = 120.0
"""A run that was under way for so long has not ended at once: the next one does not wait for the earlier ones' sake."""
REST_SECONDS = 10.0
"""How long a round rests whose step could not be done, because the SuperLink or a library did not answer."""
_UNDER_WAY = frozenset({"pending", "starting", "running"})

log = structlog.get_logger(__name__)


class Runs(Protocol):
    """The part of ``SuperLinkControl`` that the worker needs."""

    def start_run(self, round_id: str) -> int:
        """Start the relay of a round; its run id."""
        ...

    def runs(self) -> Mapping[int, str]:
        """Run id → status."""
        ...


@dataclass(frozen=True)
class RunTries:
    """How often a round's run had to be started again lately, and when to look at it next. Times are monotonic."""

    in_vain: int = 0
    since: float = 0.0
    next_look: float = 0.0

    def started(self, now: float, *, again: bool) -> "RunTries":
        """Every start after one that came to nothing is followed by a longer wait, up to ``RUN_PAUSE_SECONDS``."""
        in_vain = self.in_vain + again
        wait = min(RUN_CHECK_SECONDS * 2 ** min(in_vain, 10), RUN_PAUSE_SECONDS)
        return RunTries(in_vain, now, now + wait)

    def under_way(self, now: float) -> "RunTries":
        """Seen at work; forgiven what was before once it has been for long."""
        in_vain = 0 if now >= self.since + STABLE_SECONDS else self.in_vain
        return RunTries(in_vain, self.since, now + RUN_CHECK_SECONDS)


class Worker:
    """One for each data folder and database; where the database is shared between machines, others stand by."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        runs: Callable[[], Runs],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``runs`` reaches the SuperLink, or raises Unreachable while there is none."""
        self._settings, self._monotonic = settings, monotonic
        self._runs = runs
        self._database = database = Database(settings.database)
        self._ledger: Ledger = ledger_of(settings, database)
        self._secret: SecretSums = secret_sums_of(settings, database)
        self._store = CarStore(settings.store)
        self._pinning = pinning_of(settings, database, self._store)
        self._rpc = rpc = Rpc(settings.rpc_url)
        policy, sources = settings.loaded_policy, sources_of(settings)
        judged = partial(_opening, rpc, policy, sources)
        forks = Forks(rpc, self._ledger, judged)
        self._latecomers = Latecomers(database, policy, judged)
        self._watcher = Watcher(rpc, self._ledger, lambda: take_snapshot(rpc, policy), policy.ownership, forks)
        self._webhooks = Webhooks(database, load_hooks(settings.webhooks), policy.dao)
        self._tries: dict[str, RunTries] = {}
        self._resting: dict[str, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set. With a shared database it stands by while another worker is at work.

        Raises:
            Conflict: another worker has the data folder, and the database is a file.
        """
        while not stop.is_set():
            try:
                with self._database.leased(stop) as is_ours, self._alone(stop):
                    self._work(stop, is_ours)
            except (Busy, Unreachable) as error:
                log.warning("the worker rests", reason=str(error))
                stop.wait(REST_SECONDS)

    def _work(self, stop: threading.Event, is_ours: Callable[[], bool]) -> None:
        if stop.is_set():
            return
        make_key(self._settings.credentials)  # so that readers can be told of it before they need it
        with self._webhooks.running():
            while not stop.is_set() and is_ours():
                self.tick()
                stop.wait(self._settings.poll_seconds)

    def tick(self) -> None:
        """Look at the chain once, at every round that has not ended, and at what is due elsewhere."""
        self._settings.tick_file.touch()
        try:
            self._watcher.step()
        except CoterieError as error:
            log.warning("the chain was not asked", reason=str(error))
        self._latecomers.step()
        for round_id in self._ledger.active():
            if self._resting.get(round_id, 0.0) > time.monotonic():
                continue
            try:
                self.advance(round_id)
            except CoterieError as error:
                log.warning("the round rests", round_id=round_id, reason=str(error))
                self._resting[round_id] = time.monotonic() + REST_SECONDS
        self._pinning.tick()

    def advance(self, round_id: str) -> None:
        """Do what is due of one round, until it waits for something."""
        self._begin(self._ledger.facts(round_id))
        while self._ledger.facts(round_id).paused_at is None:
            if step := self._ledger.take_step(round_id):
                log.info("round", round_id=round_id, state=step.to, reason=step.reason)
                continue
            facts = self._ledger.facts(round_id)
            if facts.state is RoundState.MERGING:
                self._merge(facts)
            elif facts.state is RoundState.PUBLISHING:
                self._publish(facts)
            else:
                if facts.state in (*EXCHANGES, RoundState.SCORING):
                    self._keep_running(facts)
                return

    def _begin(self, facts: RoundFacts) -> None:
        """Before a member can decline, a secret sum's terms are fixed."""
        if facts.plan.mode is Mode.SECAGG and facts.state is RoundState.OPEN and facts.paused_at is None:
            self._secret.begin(facts.round_id, adapted_layers(self._settings.base))

    def _merge(self, facts: RoundFacts) -> None:
        live = self._ledger.live_contributions(facts.round_id)
        try:
            kept = self._candidates(facts, live)
        except (BadInput, Conflict, NotAllowed) as error:
            self._fail(facts, f"The merge failed: {error.message}")
            return
        self._ledger.set_candidates(facts.round_id, [one.contribution_id for one in live], kept)
        log.info("merged", round_id=facts.round_id, contributions=len(live), candidates=kept)

    def _candidates(self, facts: RoundFacts, live: Sequence[LiveContribution]) -> str:
        """Merge, and keep what came of it; its hash.

        Raises:
            BadInput, Conflict, NotAllowed: these contributions cannot be merged, or not any more.
        """
        settings, plan = self._settings, facts.plan
        if plan.mode is Mode.OPEN:
            return merge_in_child(self._order(facts, live))
        factors = fixed_factors(adapted_layers(settings.base), facts.base_hash, plan)
        if plan.mode is Mode.DP:
            self._ledger.require_budget(facts.round_id)
            updates = {one.contribution_id: one.adapter for one in live}
            return candidate.keep(settings.candidates, private.noised(updates, plan, factors))
        total, weights = self._secret.total(facts.round_id)
        return candidate.keep(settings.candidates, private.opened(total, weights, plan, factors))

    def _order(self, facts: RoundFacts, live: Sequence[LiveContribution]) -> MergeOrder:
        settings = self._settings
        return MergeOrder(
            plan=facts.plan,
            robust=settings.loaded_policy.robust,
            processes=settings.merge_processes,
            base=settings.base,
            base_hash=facts.base_hash,
            contributions=tuple(_ordered(one) for one in live),
            lessons=settings.lessons,
            candidates=settings.candidates,
            sums=settings.sums if settings.keep_sums else None,
        )

    def _publish(self, facts: RoundFacts) -> None:
        require_canonical(self._rpc, facts.snapshot)
        folder = self._settings.releases / facts.round_id
        shutil.rmtree(folder, ignore_errors=True)  # what a killed worker left half built
        try:
            manifest = self._build(facts)
        except Conflict as clash:
            self._fail(facts, clash.message)
            return
        cid = self._store.put({name: folder / name for name in (MANIFEST, *manifest.names)})
        self._store.verify(cid)
        try:
            self._ledger.publish(facts.round_id, str(cid), manifest)
        except Conflict as change:
            log.info("not published", round_id=facts.round_id, reason=change.message)
            return
        except NotAllowed as spent:
            self._fail(facts, spent.message)
            return
        log.info("published", round_id=facts.round_id, cid=str(cid))

    def _build(self, facts: RoundFacts) -> Manifest:
        settings, ledger = self._settings, self._ledger
        made = candidate.read(settings.candidates, facts.candidates_hash or "")
        live, reports = ledger.live_contributions(facts.round_id), ledger.scores(facts.round_id)
        chosen, gain, scores = _chosen(facts.plan, made, live, reports)
        source, own = made.of(chosen), made.own_word
        policy = kept(settings.policies, facts.policy_hash)
        draft = ReleaseDraft(
            dao=settings.loaded_policy.dao,
            round_id=facts.round_id,
            kind=facts.kind.value,
            epoch=facts.epoch,
            parent=ledger.latest_cid(),
            base=BaseReference(name=settings.base_name, hash=facts.base_hash),
            policy_hash=facts.policy_hash,
            snapshot=facts.snapshot,
            plan=facts.plan,
            contributions=tuple(_account(one, made, chosen, scores, facts.plan) for one in live),
            exclusions=ledger.exclusions(facts.round_id),
            removals=ledger.removals(),
            candidate=chosen,
            gain=gain,
            scores=scores,
            scored_by=len(reports),
            terms=release_terms(policy or settings.loaded_policy, (one for part in live for one in part.verdicts)),
            policy=policy,
            distillation=source.distilled.account if source.distilled else None,
            base_change=made.base_changes.get(chosen),
            base_statistics=own.said if own else None,
            privacy=ledger.privacy_after(facts.round_id),
            order=ledger.order(facts.round_id),
            credentials=settings.credentials,
            files=published_files(policy, facts.policy_hash, facts.plan.mode, live, own.file if own else None),
        )
        merged = replace(source.merged, adapter=dict(made.adapter(chosen)))
        return build(draft, merged, settings.base, settings.releases / facts.round_id)

    def _fail(self, facts: RoundFacts, reason: str) -> None:
        self._ledger.move(facts.round_id, Step(RoundState.FAILED, reason), leaving=facts.state)

    def _keep_running(self, facts: RoundFacts) -> None:
        """A round that needs its nodes has a Flower run; one that ended early is started again."""
        now = self._monotonic()
        tries = self._tries.get(facts.round_id, RunTries())
        if now < tries.next_look:
            return
        control = self._runs()
        status = control.runs().get(int(facts.run_id), "unknown") if facts.run_id else None
        if status in _UNDER_WAY:
            self._tries[facts.round_id] = tries.under_way(now)
            return
        run_id = control.start_run(facts.round_id)
        self._ledger.set_run(facts.round_id, str(run_id), status if tries.in_vain == 0 else None)
        self._tries[facts.round_id] = tries.started(now, again=status is not None)
        log.info("run started", round_id=facts.round_id, run_id=run_id, before=status)

    @contextmanager
    def _alone(self, stop: threading.Event) -> Iterator[None]:
        """The lock is the kernel's: it ends with the process, however that ends.

        Who has lost the lease of a shared database may have the folder for a while yet, and is waited for.
        """
        file = self._settings.data / "worker.lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w") as held:
            while not _locked(held):
                if not self._database.is_shared:
                    raise Conflict(f"Another worker has {self._settings.data}.", "Run one worker a data folder.")
                if stop.wait(TRY_SECONDS):
                    break
            yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opening(rpc: Rpc, policy: Policy, sources: Sources, grant: Grant, at: Snapshot) -> Sequence[Verdict]:
    return opening_verdicts(rpc, policy, grant, at, sources)


def _ordered(one: LiveContribution) -> Ordered:
    """What the merging process needs of a contribution."""
    captions = tuple(use.caption for use in one.header.tokens if not use.held_out)
    return Ordered(
        contribution_id=one.contribution_id,
        weight=one.weight,
        adapter=one.adapter,
        statistics=one.statistics,
        captions=captions,
        plan=one.plan,
        received=one.received_at,
    )


def _chosen(
    plan: RoundPlan, made: Candidates, live: Sequence[LiveContribution], reports: Sequence[ScoreReport]
) -> tuple[CandidateName, float, tuple[GainScore, ...]]:
    """The candidate, its gain, and what was scored: nothing in ``dp``, where the plan says both beforehand."""
    if plan.mode is Mode.DP:
        return made.first, plan.gain, ()
    weights = {one.header.grant_id: one.weight for one in live}
    best, scores = choose(reports, made.scored, plan.gains, weights, made.names)
    return best.candidate, best.gain, scores


def _account(
    one: LiveContribution, made: Candidates, chosen: CandidateName, scores: Sequence[GainScore], plan: RoundPlan
) -> MergedContribution:
    """What the manifest says of a contribution to the candidate that is published."""
    accounts = made.of(chosen).merged.accounts
    account, total = accounts[one.contribution_id], sum(each.weight for each in accounts.values())
    return MergedContribution(
        contribution_id=one.contribution_id,
        member=one.grant.member,
        grant=one.grant,
        grant_signature=one.grant_signature,
        signed_at=one.signed_at,
        header=one.header,
        signature=one.signature,
        weight=account.weight,
        share=account.weight / total,
        rank=_rank(one) if plan.mode is Mode.OPEN else plan.rank,
        norm=account.norm,
        note=made.note(chosen, one.contribution_id),
        statistics_error=made.statistics_errors.get(one.contribution_id),
        influence=account.influence,
        worth=_worth(one.contribution_id, made, scores),
        licences=licences_of(one.verdicts),
        snapshot=one.snapshot,
        admitted=one.admitted,
        verdicts=one.verdicts,
        received_at=one.received_at,
    )


def _rank(one: LiveContribution) -> int:
    return max(factors.rank for factors in load_adapter(one.adapter.read_bytes()).values())


def _worth(contribution_id: str, made: Candidates, scores: Sequence[GainScore]) -> float | None:
    """How much the held-out loss rises without the contribution, at the gain nearest to 1 that was scored."""
    if contribution_id not in made.left_out:
        return None
    gain = min({score.gain for score in scores}, key=lambda gain: abs(gain - 1))
    losses = {score.candidate: score.loss for score in scores if score.gain == gain}
    return losses[without(contribution_id)] - losses[made.first]
