"""A round as the connected nodes see it: which task is on, who still owes an answer, and where answers go."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from coordinator.aggregation.secure import Inputs, Stage
from coordinator.flower.exchange import Body, Task
from coordinator.rounds.candidate import read_adapter, read_list
from coordinator.rounds.checks import Layers
from coordinator.rounds.ledger import Ledger, RoundFacts
from coordinator.rounds.secret import SecretSums
from coordinator.rounds.sums import told
from coordinator.rounds.transitions import ENDED, RoundState
from protocol.contribution import Candidate, Contribution, ContributionHeader, ScoreTask, SignedScoreReport, TrainTask
from protocol.errors import ContributionRefused, NotFound
from protocol.masking import MaskTask
from protocol.modes import Mode

_SECRET = "secret"  # noqa: S105 - the name of a part of a body
EXCHANGED: Mapping[RoundState, Literal["shares", "input", "confirmation", "answer"]] = {
    RoundState.SHARING: "shares",
    RoundState.MASKING: "input",
    RoundState.CONFIRMING: "confirmation",
    RoundState.UNMASKING: "answer",
}
"""What each exchange after the keys asks for."""


class RoundExchange:
    """``coordinator.flower.exchange.Exchange`` over the ledger. The state of the round is asked of the database."""

    interval = 0.5

    def __init__(self, ledger: Ledger, secret: SecretSums, round_id: str, layers: Layers, candidates: Path) -> None:
        """``candidates`` is where the worker puts merged adapters, each under its hash."""
        self._ledger, self._secret = ledger, secret
        self._round_id = round_id
        self._layers = layers
        self._candidates = candidates
        self._task: Task | None = None
        self._told: frozenset[str] = frozenset()
        """The grants that the training task names."""
        self._stage: Stage | None = None
        """That the task is about, where it is an exchange of a secret sum."""

    def next_task(self) -> Task | None:
        facts = self._ledger.facts(self._round_id)
        if facts.paused_at is not None:
            return None
        if facts.state is RoundState.TRAINING:
            task_id = f"train-{facts.snapshot.hash[2:18]}"
            expected = self._ledger.expected(self._round_id)
            kept = self._keep(task_id) if expected <= self._told else None
            return kept or self._train_task(facts, task_id, expected)
        if facts.state in EXCHANGED:
            return self._keep(facts.state) or self._mask_task(facts)
        if facts.state is RoundState.SCORING and facts.candidates_hash:
            task_id = f"score-{facts.candidates_hash[:16]}"
            return self._keep(task_id) or self._set(Task("score", task_id, self._score_body(facts.candidates_hash)))
        return None

    def wanted(self, node_id: int, task: Task) -> bool:
        key = self._ledger.node_key(node_id)
        if task.kind == "mask" or _SECRET in task.body:
            state = RoundState.TRAINING if task.kind == "train" else RoundState(task.task_id)
            return key in self._secret.wanted(self._round_id, state)
        if task.kind == "train":
            return key in self._ledger.wanted_trainers(self._round_id)
        return key in self._ledger.wanted_scorers(self._round_id)

    def own_part(self, node_id: int, task: Task) -> Body:
        key = self._ledger.node_key(node_id)
        if task.kind != "mask" or key is None or not isinstance(self._stage, Inputs):
            return {}
        return {"own": self._stage.deliveries(key).canonical()}

    def receive(self, task: Task, node_id: int, reply: Body) -> None:
        key = self._ledger.node_key(node_id)
        if key is None:
            raise NotFound(f"Node {node_id} is not one of ours.")
        if "declined" in reply:
            self._decline(task, key, str(reply["declined"]))
        elif task.kind == "score":
            self._ledger.receive_scores(self._round_id, key, _scores(reply), self._candidates_of(task))
        elif task.kind == "mask" and task.task_id == RoundState.MASKING:
            self._secret.receive_update(self._round_id, key, _bytes(reply, "said"), _contribution(reply))
        elif task.kind == "mask" or _SECRET in task.body:
            self._secret.receive(self._round_id, key, _bytes(reply, "said"))
        else:
            self._ledger.receive(self._round_id, key, _contribution(reply), self._layers)

    def asked(self, task: Task, node_id: int) -> None:
        if task.kind == "train" and (key := self._ledger.node_key(node_id)):
            self._ledger.note_asked(self._round_id, key)

    def failed(self, task: Task, node_id: int, reason: str) -> None:
        if key := self._ledger.node_key(node_id):
            self._ledger.note_failure(self._round_id, key, reason)

    def finished(self) -> bool:
        return self._ledger.facts(self._round_id).state in ENDED

    def _decline(self, task: Task, key: str, reason: str) -> None:
        if task.kind == "score":
            self._ledger.decline_scoring(self._round_id, key, reason)
            return
        asked = TrainTask.model_validate_json(_bytes(task.body, "task")).tokens if task.kind == "train" else None
        self._ledger.decline(self._round_id, key, reason, asked)

    def _keep(self, task_id: str) -> Task | None:
        return self._task if self._task and self._task.task_id == task_id else None

    def _set(self, task: Task) -> Task:
        self._task = task
        return task

    def _candidates_of(self, task: Task) -> tuple[Candidate, ...]:
        return ScoreTask.model_validate_json(_bytes(task.body, "task")).candidates

    def _train_task(self, facts: RoundFacts, task_id: str, expected: frozenset[str]) -> Task | None:
        """The same task for everybody; who comes late is named in it from then on, and nobody else is asked again."""
        body: Body = {"task": self._ledger.train_task(self._round_id).canonical()}
        if facts.plan.mode is Mode.SECAGG:
            opening = self._secret.opening(self._round_id)
            if opening is None:
                return None  # the worker fixes the terms in a moment
            body[_SECRET] = opening.canonical()
        self._told = expected
        return self._set(Task("train", task_id, body))

    def _mask_task(self, facts: RoundFacts) -> Task:
        state, self._stage = self._secret.stage(self._round_id)
        task = MaskTask(round_id=self._round_id, exchange=EXCHANGED[state], base_hash=facts.base_hash)
        body: Body = {"task": task.canonical(), "told": told(self._stage).canonical()}
        return self._set(Task("mask", state, body))

    def _score_body(self, candidates_hash: str) -> Body:
        candidates = read_list(self._candidates, candidates_hash)
        task = self._ledger.score_task(self._round_id, candidates)
        adapters: Body = {one.name: read_adapter(self._candidates, candidates_hash, one) for one in candidates}
        return adapters | {"task": task.canonical()}


def _contribution(reply: Body) -> Contribution:
    try:
        header = ContributionHeader.model_validate_json(_bytes(reply, "header"))
    except ValidationError as error:
        raise ContributionRefused(f"The contribution's header is wrong: {error.errors()[0]['msg']}.") from error
    statistics = _bytes(reply, "statistics") if header.statistics_sha256 else b""
    return Contribution(header, str(reply.get("signature", "")), _bytes(reply, "adapter"), statistics)


def _scores(reply: Body) -> SignedScoreReport:
    try:
        return SignedScoreReport.model_validate_json(_bytes(reply, "report"))
    except ValidationError as error:
        raise ContributionRefused(f"The score report is wrong: {error.errors()[0]['msg']}.") from error


def _bytes(reply: Body, name: str) -> bytes:
    value = reply.get(name)
    if not isinstance(value, bytes):
        raise ContributionRefused(f"The reply carries no {name}.")
    return value
