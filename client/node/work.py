"""What the node does with a task: find its own grant, build the dataset, train, sign, answer.

The wallet is not here; the node key and the stored grant are enough. An answer that was once given is kept in
``rounds/<id>`` and given again.
"""

import errno
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from bases.statistics import draw, recipe_of
from client.collection.base_size import picture_size
from client.collection.choice_file import load_choice
from client.collection.dataset import Dataset, Source, build_dataset, load_held_out
from client.config import MemberSettings, load_settings
from client.coordinator_api import CoordinatorApi
from client.journal import note_sent
from client.media.resolver import media_of
from client.node import secret
from client.node.tasks import Body, TaskHandler
from client.progress import OWN, ProgressWriter, Update
from client.training.checkpoint import drop_checkpoint
from client.training.engine import TrainingProgress
from client.training.fixed import fixed_factors, update_of
from client.training.machine import Machine
from client.training.scoring import score
from client.wallet.grant import StoredGrant, stored_grants
from client.wallet.renewal import renewed
from contracts_abi.delegation import held_or_lent
from contracts_abi.facts import read_facts
from contracts_abi.model import Token
from contracts_abi.readers import finalized_snapshot, token_uris
from contracts_abi.rpc import Rpc
from contracts_abi.signatures import at_block
from protocol import node_key
from protocol.adapter import Adapter, dump_adapter, dump_statistics, load_adapter
from protocol.base import base_hash
from protocol.canonical import Document, sha256
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
from protocol.errors import BadInput, ContentMismatch, ContributionRefused, NotAllowed
from protocol.fixed_factors import FixedFactors
from protocol.grant import RoundPlan
from protocol.masking import MaskTask, SecretRound
from protocol.modes import Mode
from protocol.policy import judge, within_cap
from protocol.update import dump_update, load_update, numbers_in

ROUNDS = "rounds"

_ADAPTER, _STATISTICS, _SIGNED_HEADER = "adapter.safetensors", "statistics.safetensors", "contribution.json"
_UPDATE, _DRAFT = "update.bin", "draft.json"
"""Of a private round: what was trained, and the header that it will have."""
_ROUND_ID = re.compile(r"^[0-9A-Za-z_-]{1,64}$")

Task = TypeVar("Task", TrainTask, ScoreTask, MaskTask)


class SignedHeader(Document):
    """``rounds/<id>/contribution.json``: written last, so that it is there only when everything else is."""

    header: ContributionHeader
    signature: str


def handler_for(home: Path) -> TaskHandler:
    """The handler of the member whose folder is ``home``."""
    return MemberWork(load_settings(home))


@dataclass(frozen=True)
class MemberWork:
    """A member's answers to the coordinator's tasks."""

    settings: MemberSettings

    def handle(self, kind: str, body: Body) -> Body:
        """``train`` → header, signature, adapter, statistics; ``score`` → report; ``declined`` with the reason.

        Of a secret sum, ``train`` and ``mask`` → said, and with a masked update header, signature and adapter too.
        """
        try:
            with full_disk_told(self.settings.home):
                if kind == "train":
                    return self._train(_parse(TrainTask, body), body)
                if kind == "score":
                    return self._score(_parse(ScoreTask, body), body)
                if kind == "mask":
                    return self._exchange(_parse(MaskTask, body), body)
        except NotAllowed as refusal:
            return {"declined": str(refusal)}
        raise BadInput(f"This client knows no task called {kind[:40]!r}.", "Update Coterie.")

    def _train(self, task: TrainTask, body: Body) -> Body:
        folder = self._round_folder(task.round_id)
        granted = self._granted(task)
        if task.plan.mode is Mode.SECAGG:
            return self._take_part(task, granted, folder, secret.opening(body))
        contribution = _stored(folder)
        if contribution is None or not _answers(contribution.header, task, granted):
            contribution = self._contribute(task, granted, folder)
        parts: Body = {
            "header": contribution.header.canonical(),
            "signature": contribution.signature,
            "adapter": contribution.adapter,
            "statistics": contribution.statistics,
        }
        self._note_sent(f"round {task.round_id}", parts)
        return parts

    def _take_part(self, task: TrainTask, granted: StoredGrant, folder: Path, sum_: SecretRound) -> Body:
        """Train for a secret sum; only its keys leave the machine now."""
        rpc = self._rpc()
        policy = granted.policy
        chain = secret.OwnChain(
            lambda claims: held_or_lent(rpc, claims, policy.ownership, task.snapshot), at_block(rpc, task.snapshot)
        )
        secret.require_members(sum_, task, granted.grant, policy, chain)
        draft = _draft(folder)
        if draft is None or not _answers(draft, task, granted):
            self._draft_update(task, granted, folder, sum_)
        parts = secret.advertise(folder, sum_, granted.grant.node_key, self._sign)
        self._note_sent(f"round {task.round_id}", parts)
        return parts

    def _draft_update(self, task: TrainTask, granted: StoredGrant, folder: Path, sum_: SecretRound) -> None:
        dataset = self._dataset(task, granted)
        dataset.save(folder)
        plan = task.plan.model_copy(update={"seed": secret.own_seed(folder)})
        machine = machine_of(self.settings, task.base_hash)
        factors = _factors(machine, task)
        secret.require_terms(sum_, task, factors)
        progress = Progress(self.settings.home, task.round_id)
        trained = machine.train(dataset.examples, dataset.held_out, plan, folder, progress.training)
        update = dump_update(update_of(factors, trained.adapter))
        header = _header(task, granted, dataset, sha256(update))
        _replace(folder / _ADAPTER, dump_adapter(trained.adapter))
        _replace(folder / _UPDATE, update)
        _replace(folder / _DRAFT, header.canonical())
        drop_checkpoint(folder)

    def _exchange(self, task: MaskTask, body: Body) -> Body:
        folder = self._round_folder(task.round_id)
        size = (folder / _UPDATE).stat().st_size if (folder / _UPDATE).exists() else 0
        parts = secret.exchange(
            folder, task, body, lambda: load_update((folder / _UPDATE).read_bytes(), numbers_in(size)), self._sign
        )
        if task.exchange == "input":
            parts |= self._signed_words(folder, parts)
        self._note_sent(f"round {task.round_id}", parts)
        return parts

    def _signed_words(self, folder: Path, parts: Body) -> Body:
        """The header that makes masked words a contribution."""
        words, draft = parts["adapter"], _draft(folder)
        assert isinstance(words, bytes)
        if draft is None:
            raise BadInput("The update of this round is not on the disk any more.")
        header = draft.model_copy(update={"adapter_sha256": sha256(words)})
        path = folder / _SIGNED_HEADER
        kept = SignedHeader.model_validate_json(path.read_bytes()) if path.exists() else None
        if kept is None or kept.header != header:
            kept = SignedHeader(header=header, signature=self._sign(header.canonical()))
            _replace(path, kept.canonical())
        return {"header": kept.header.canonical(), "signature": kept.signature}

    def _sign(self, message: bytes) -> str:
        return node_key.sign(self.settings.node_key, message)

    def _granted(self, task: TrainTask) -> StoredGrant:
        """This node's grant for the task; NotAllowed when the task asks for anything but what was granted."""
        own = node_key.public_of(self.settings.node_key)
        grants = (s for s in stored_grants(self.settings.home) if s.grant.grant_id in task.tokens)
        stored = next((s for s in grants if s.grant.node_key == own), None)
        if stored is None:
            stored = self._renewed(task, own)
        grant = stored.grant
        for agrees, what in (
            (grant.dao == task.dao, "DAO"),
            (grant.chain_id == task.snapshot.chain_id, "chain"),
            (grant.policy_hash == task.policy_hash, "policy"),
            (grant.base_hash == task.base_hash, "base"),
        ):
            if not agrees:
                raise NotAllowed(
                    f"The round names another {what} than the member granted.", "The member may join anew."
                )
        if grant.expires <= time.time():
            raise NotAllowed("The member's grant has expired.", "The member may join anew.")
        stored.policy.require_mode(task.plan.mode)
        self._require_base(task.base_hash)
        return stored

    def _renewed(self, task: TrainTask, own: str) -> StoredGrant:
        """The round's grant to this node key, which its member may have renewed in a browser since.

        Raises:
            NotAllowed: there is none, or it is not what the wallet signed.
            Unreachable: nobody can say; the coordinator asks again.
        """
        kept = next((one for one in stored_grants(self.settings.home) if one.grant.node_key == own), None)
        granted = set(kept.grant.tokens) if kept else set()
        if kept and any(granted & set(tokens) for tokens in task.tokens.values()):
            stored = renewed(CoordinatorApi(kept.coordinator), self.settings, own)
            if stored and stored.grant.grant_id in task.tokens:
                return stored
        raise NotAllowed("None of this member's grants is part of the round.")

    def _require_base(self, expected: str) -> None:
        if base_hash(self.settings.base) != expected:
            raise NotAllowed("The member's machine has another base model than the round.", "Set the base's folder.")

    def _contribute(self, task: TrainTask, granted: StoredGrant, folder: Path) -> Contribution:
        dataset = self._dataset(task, granted)
        dataset.save(folder)
        progress = Progress(self.settings.home, task.round_id)
        machine = machine_of(self.settings, task.base_hash)
        plan = task.plan.model_copy(update={"seed": task.plan.seed_of(granted.grant.member)})
        trained = machine.train(dataset.examples, dataset.held_out, plan, folder, progress.training)
        if plan.mode is Mode.DP:
            update = dump_update(update_of(_factors(machine, task), trained.adapter))
            return self._finish(folder, trained.adapter, _header(task, granted, dataset, sha256(update)), update)
        adapter = dump_adapter(trained.adapter)
        captions = tuple(example.caption for example in dataset.examples)
        recipe = recipe_of(task.plan, captions)
        # From the adapter as it is sent, rounded to fp16: that is what anyone can recompute the statistics from.
        sketches = draw(machine.base, load_adapter(adapter), captions, recipe, progress.stage("statistics"))
        statistics = dump_statistics(sketches)
        told = {"statistics_sha256": sha256(statistics), "recipe": recipe, "training": trained.training}
        header = _header(task, granted, dataset, sha256(adapter)).model_copy(update=told)
        return self._finish(folder, trained.adapter, header, adapter, statistics)

    def _finish(
        self, folder: Path, own: Adapter, header: ContributionHeader, sent: bytes, statistics: bytes = b""
    ) -> Contribution:
        """Sign and keep what goes to the coordinator, and the member's own adapter."""
        contribution = Contribution(header, self._sign(header.canonical()), sent, statistics)
        _store(contribution, own, folder)
        drop_checkpoint(folder)
        return contribution

    def own_dataset(self, granted: StoredGrant, plan: RoundPlan) -> tuple[TrainTask, Dataset]:
        """What of a grant would be trained on now, outside of any round, as the task that asks for it."""
        grant = granted.grant
        task = TrainTask(
            round_id=OWN,
            dao=grant.dao,
            plan=plan,
            policy_hash=grant.policy_hash,
            base_hash=grant.base_hash,
            snapshot=finalized_snapshot(self._rpc()),
            tokens={grant.grant_id: grant.tokens},
        )
        return task, self._dataset(task, granted)

    def _dataset(self, task: TrainTask, granted: StoredGrant) -> Dataset:
        """What is both granted and admitted, judged once more by the policy that was granted under."""
        granted_tokens = set(granted.grant.tokens)
        tokens = [token for token in task.tokens[granted.grant.grant_id] if token in granted_tokens]
        rpc = self._rpc()
        rules = self._rules(rpc, task, granted, tokens)
        uris = token_uris(rpc, tokens, task.snapshot)
        gateways = self.settings.gateways or granted.gateways
        progress = Progress(self.settings.home, task.round_id)
        settings = self.settings
        media = media_of(gateways, settings.arweave_gateways, allow_https=settings.allow_https)
        sources = [Source(token, uris.get(token, ""), rules[token]) for token in tokens]
        size, choice = picture_size(self.settings.base), load_choice(self.settings.home)
        return build_dataset(sources, media, size, progress.stage("pictures"), choice)

    def _rules(self, rpc: Rpc, task: TrainTask, granted: StoredGrant, tokens: Sequence[Token]) -> dict[Token, str]:
        facts = read_facts(rpc, granted.policy, tokens, (granted.grant.member,), task.snapshot)
        verdicts = within_cap(granted.policy, (judge(granted.policy, token, facts[token]) for token in tokens))
        for verdict in verdicts:
            if not verdict.allow:
                raise NotAllowed(f"The policy does not admit {verdict.token}: {verdict.reason}")
        return {verdict.token: verdict.rule for verdict in verdicts}

    def _rpc(self) -> Rpc:
        if not self.settings.rpc_url:
            raise BadInput("The member's client knows no chain node to ask.", "Set rpc_url in member.toml.")
        return Rpc(self.settings.rpc_url)

    def _score(self, task: ScoreTask, body: Body) -> Body:
        adapters = [_candidate(one, body) for one in task.candidates]
        self._require_base(task.base_hash)
        folder, grant_id = self._scorer(task)
        kept = folder / f"score-{task.digest()[:16]}.json"
        if not kept.exists():
            _replace(kept, self._report(task, adapters, folder, grant_id).canonical())
        parts: Body = {"report": kept.read_bytes()}
        self._note_sent(f"round {task.round_id}", parts)
        return parts

    def _report(self, task: ScoreTask, adapters: Sequence[bytes], folder: Path, grant_id: str) -> SignedScoreReport:
        examples = load_held_out(folder)
        if not examples:
            raise NotAllowed("This member has too few tokens to hold pictures out for scoring.")
        progress = Progress(self.settings.home, task.round_id).stage("scoring")
        progress(0, len(adapters))
        base = machine_of(self.settings, task.base_hash).base
        losses = []
        for adapter in adapters:
            losses.append(score(base, load_adapter(adapter), task.gains, examples, task.seed))
            progress(len(losses), len(adapters))
        report = ScoreReport(
            round_id=task.round_id,
            grant_id=grant_id,
            node_key=node_key.public_of(self.settings.node_key),
            candidates_hash=candidates_hash(task.candidates),
            losses=tuple(losses),
            images=len(examples),
        )
        return SignedScoreReport(report=report, signature=node_key.sign(self.settings.node_key, report.canonical()))

    def _scorer(self, task: ScoreTask) -> tuple[Path, str]:
        """The folder whose held-out pictures score: this round's, else the newest on the same base; and its grant."""
        folder = self._round_folder(task.round_id)
        others = sorted(folder.parent.glob(f"*/{_SIGNED_HEADER}"), key=lambda p: p.stat().st_mtime, reverse=True)
        for path in (folder / _SIGNED_HEADER, *others):
            if path.exists():
                header = SignedHeader.model_validate_json(path.read_bytes()).header
                if header.base_hash == task.base_hash:
                    return path.parent, header.grant_id
        raise NotAllowed("This member has trained on nothing in this epoch, so it holds no pictures out.")

    def _round_folder(self, round_id: str) -> Path:
        if not _ROUND_ID.match(round_id):
            raise BadInput("The round's id is no plain name.")
        return self.settings.home / ROUNDS / round_id

    def _note_sent(self, subject: str, parts: Body) -> None:
        note_sent(self.settings.home, subject, {k: v for k, v in parts.items() if isinstance(v, bytes | str)})


class Progress:
    """A round's progress, written to the member's progress file."""

    def __init__(self, home: Path, round_id: str) -> None:
        self._writer, self._round_id = ProgressWriter(home), round_id

    def training(self, now: TrainingProgress) -> None:
        """One line of training's own."""
        self._writer.write(
            Update(
                round_id=self._round_id,
                stage=now.stage,
                step=now.step,
                steps=now.steps,
                loss=now.loss,
                seconds=now.seconds,
                images_per_second=now.images_per_second,
                seconds_left=now.seconds_left,
                memory_bytes=now.memory_bytes,
                validation=now.validation,
                note=now.note,
            )
        )

    def stage(self, name: str) -> Callable[[int, int], None]:
        """Begin a stage; the callable takes (steps done, steps in all)."""
        began = time.monotonic()

        def report(step: int, steps: int) -> None:
            self.training(TrainingProgress(name, step, steps, None, time.monotonic() - began))

        return report


@contextmanager
def full_disk_told(home: Path) -> Iterator[None]:
    """Within, a full disk becomes a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise BadInput(
            "The member's disk is full.", f"Free some space for {home}; training then goes on from its last checkpoint."
        ) from error


def machine_of(settings: MemberSettings, base: str) -> Machine:
    """The member's machine with its base, whose hash is ``base``."""
    return Machine(settings.home, settings.base, base, settings.training, settings.threads)


def _parse(model: type[Task], body: Body) -> Task:
    try:
        return model.model_validate_json(_bytes(body, "task"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"The task cannot be read ({where}: {first['msg']}).", "Versions may differ.") from error


def _candidate(named: Candidate, body: Body) -> bytes:
    data = _bytes(body, named.name)
    if sha256(data) != named.sha256:
        raise ContentMismatch(f"The candidate {named.name!r} is not the adapter that the task names.")
    return data


def _bytes(body: Body, name: str) -> bytes:
    value = body.get(name)
    if not isinstance(value, bytes):
        raise BadInput(f"The task carries no {name}.")
    return value


def _answers(header: ContributionHeader, task: TrainTask, granted: StoredGrant) -> bool:
    return (header.plan_hash, header.grant_id) == (task.plan.digest(), granted.grant.grant_id)


def _header(task: TrainTask, granted: StoredGrant, dataset: Dataset, sent: str) -> ContributionHeader:
    """What every contribution says; ``sent`` is the hash of what goes to the coordinator."""
    return ContributionHeader(
        round_id=task.round_id,
        grant_id=granted.grant.grant_id,
        node_key=granted.grant.node_key,
        plan_hash=task.plan.digest(),
        policy_hash=task.policy_hash,
        base_hash=task.base_hash,
        tokens=dataset.uses,
        adapter_sha256=sent,
    )


def _factors(machine: Machine, task: TrainTask) -> FixedFactors:
    factors = fixed_factors(machine.base, task.base_hash, task.plan)
    assert factors is not None, "an open round has no fixed factors"
    return factors


def _draft(folder: Path) -> ContributionHeader | None:
    """The header of an update that waits for its masks."""
    path = folder / _DRAFT
    return ContributionHeader.model_validate_json(path.read_bytes()) if path.exists() else None


def _store(contribution: Contribution, own: Adapter, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if contribution.header.statistics_sha256:
        _replace(folder / _ADAPTER, contribution.adapter)
        _replace(folder / _STATISTICS, contribution.statistics)
    else:
        _replace(folder / _ADAPTER, dump_adapter(own))
        _replace(folder / _UPDATE, contribution.adapter)
    signed = SignedHeader(header=contribution.header, signature=contribution.signature)
    _replace(folder / _SIGNED_HEADER, signed.canonical())


def _stored(folder: Path) -> Contribution | None:
    """The contribution kept there, None when there is none or its files are damaged."""
    if not (folder / _SIGNED_HEADER).exists():
        return None
    try:
        signed = SignedHeader.model_validate_json((folder / _SIGNED_HEADER).read_bytes())
        contribution = Contribution(signed.header, signed.signature, *_sent(folder, signed.header))
        contribution.check_integrity()
    except (OSError, ValidationError, ContributionRefused):
        return None
    return contribution


def _sent(folder: Path, header: ContributionHeader) -> tuple[bytes, bytes]:
    if header.statistics_sha256 is None:
        return (folder / _UPDATE).read_bytes(), b""
    return (folder / _ADAPTER).read_bytes(), (folder / _STATISTICS).read_bytes()


def _replace(path: Path, data: bytes) -> None:
    """Write whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(data)
    beside.replace(path)
