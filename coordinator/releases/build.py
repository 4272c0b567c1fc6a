"""Build a release's folder: adapter, manifest, card, samples, signature.

The same draft gives the same bytes, but for the credentials in the sample sheet, what the manifest says of that file,
and the signature: no two ECDSA signatures are alike.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from contracts_abi.model import Snapshot
from coordinator.releases.card import card
from coordinator.releases.credentials import Drawn, credentialed
from coordinator.releases.samples import SAMPLES, draw_samples, prompts_of
from coordinator.releases.signing import make_key, sign_release, signing_key
from merging.merge import Merged, scaled_by
from protocol.adapter import dump_adapter
from protocol.base import BASE_STATISTICS
from protocol.canonical import sha256
from protocol.contribution import CandidateName
from protocol.errors import BadInput
from protocol.grant import Grant, RoundPlan
from protocol.kohya import SD_SCRIPTS, dump_kohya
from protocol.manifest import (
    BaseReference,
    BaseStatistics,
    Distillation,
    GainScore,
    Manifest,
    Merge,
    MergedContribution,
    Removal,
    SignedOrder,
    contribution_file,
)
from protocol.modelspec import ModelSpec, architecture_of, stamped
from protocol.modes import GIVES_UP, Mode, PrivacySpent
from protocol.peft_metadata import peft_metadata
from protocol.policy import Policy, ReleaseTerms, Verdict

ADAPTER = "pytorch_lora_weights.safetensors"
KOHYA = "collective.safetensors"
"""The same adapter as ComfyUI, A1111 and their kin read it."""
MANIFEST = "manifest.json"
CARD = "README.md"
POLICY = "policy.json"
"""The policy of the round in its canonical form, whose hash the manifest names."""
_RULES: Mapping[Mode, Literal["regression mean", "secret sum", "noised mean"]] = {
    Mode.OPEN: "regression mean",
    Mode.SECAGG: "secret sum",
    Mode.DP: "noised mean",
}


@dataclass(frozen=True)
class ReleaseDraft:
    """Everything a release says but what building it adds."""

    dao: str
    round_id: str
    kind: Literal["training", "removal"]
    epoch: int
    parent: str | None
    base: BaseReference
    policy_hash: str
    snapshot: Snapshot
    plan: RoundPlan
    contributions: tuple[MergedContribution, ...]
    exclusions: tuple[Verdict, ...]
    removals: tuple[Removal, ...]
    candidate: CandidateName
    """Which is published, and with what gain."""
    gain: float
    scores: tuple[GainScore, ...]
    scored_by: int
    terms: ReleaseTerms
    policy: Policy | None = None
    """Of the round, where the coordinator still has it."""
    distillation: Distillation | None = None
    base_change: float | None = None
    base_statistics: BaseStatistics | None = None
    privacy: PrivacySpent | None = None
    order: SignedOrder | None = None
    credentials: Path | None = None
    """The folder of the keys: for the sample sheet, with its certificate, and for all files; None signs nothing."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Published beside the adapter as they are: name in the release → where it lies."""


class Sent(Protocol):
    """The part of a live contribution that can be published."""

    @property
    def contribution_id(self) -> str: ...
    @property
    def grant(self) -> Grant: ...
    @property
    def adapter(self) -> Path: ...
    @property
    def statistics(self) -> Path: ...


def published_files(
    policy: Policy | None, policy_hash: str, mode: Mode, live: Iterable[Sent], base_statistics: Path | None = None
) -> dict[str, Path]:
    """What a release carries of its contributions, and of the base's own word: name in the release → file.

    Nothing in a private mode, and nothing that was granted under another policy: its member has not agreed to that.
    """
    if policy is None or not policy.publish_contributions or mode is not Mode.OPEN:
        return {}
    sent = {
        contribution_file(one.contribution_id, what): path
        for one in live
        if one.grant.policy_hash == policy_hash
        for what, path in (("adapter", one.adapter), ("statistics", one.statistics))
    }
    return {**sent, BASE_STATISTICS: base_statistics} if base_statistics else sent


def build(draft: ReleaseDraft, merged: Merged, base: Path, folder: Path) -> Manifest:
    """Write the release into ``folder`` (created) and return its manifest.

    Args:
        merged: the chosen candidate at gain 1; its gain is folded into the published factors.
        base: the base's diffusers folder, for the sample sheet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapters = _write_adapters(draft, merged, base, folder)
    draw_samples(base, folder, _prompts(draft), seed=draft.plan.seed)
    _sign_samples(draft, folder)
    manifest = Manifest(
        dao=draft.dao,
        round_id=draft.round_id,
        kind=draft.kind,
        epoch=draft.epoch,
        parent=draft.parent,
        base=draft.base,
        policy_hash=draft.policy_hash,
        snapshot=draft.snapshot,
        plan=draft.plan,
        contributions=draft.contributions,
        exclusions=draft.exclusions,
        removals=draft.removals,
        merge=Merge(
            mode=draft.plan.mode,
            gives_up=GIVES_UP[draft.plan.mode],
            rule=_RULES[draft.plan.mode],
            regularisation=draft.plan.regularisation,
            base_statistics=draft.base_statistics,
            rank=merged.rank,
            tail=merged.tail,
            commitment=merged.commitment,
            privacy=draft.privacy,
            candidate=draft.candidate,
            distillation=draft.distillation,
            base_change=draft.base_change,
            gain=draft.gain,
            scores=draft.scores,
            scored_by=draft.scored_by,
        ),
        licence=draft.terms.licence,
        duties=draft.terms.duties,
        files={},
        order=draft.order,
        signing_key=_signing_key(draft),
    )
    (folder / CARD).write_text(card(manifest, _prompts(draft)), encoding="utf-8")
    policies = _write_policy(draft, folder)
    copied = _copy(draft.files, folder)
    hashes = {name: sha256((folder / name).read_bytes()) for name in (*adapters, CARD, SAMPLES, *policies, *copied)}
    manifest = manifest.model_copy(update={"files": hashes})
    (folder / MANIFEST).write_bytes(manifest.canonical())
    if draft.credentials:
        sign_release(folder, draft.credentials)
    return manifest


def _write_adapters(draft: ReleaseDraft, merged: Merged, base: Path, folder: Path) -> tuple[str, ...]:
    """The collective with its gain in diffusers' names, and in ComfyUI's and A1111's; the files' names."""
    adapter, architecture = scaled_by(merged.adapter, draft.gain), architecture_of(base)

    def spec(implementation: str) -> dict[str, str]:
        entry = ModelSpec(
            architecture,
            implementation,
            title=f"{draft.dao} collective, {draft.round_id}",
            licence=draft.terms.licence,
            merged_from=tuple(c.contribution_id for c in draft.contributions),
        )
        return {"format": "pt", **entry.metadata()}

    said = {**peft_metadata(adapter), **spec("diffusers")}
    (folder / ADAPTER).write_bytes(stamped(dump_adapter(adapter), said))
    try:
        in_kohya = dump_kohya(adapter, architecture.name)
    except BadInput:
        return (ADAPTER,)
    (folder / KOHYA).write_bytes(stamped(in_kohya, spec(SD_SCRIPTS)))
    return ADAPTER, KOHYA


def _sign_samples(draft: ReleaseDraft, folder: Path) -> None:
    if draft.credentials is None:
        return
    drawn = Drawn(
        dao=draft.dao,
        round_id=draft.round_id,
        base=draft.base.name,
        base_hash=draft.base.hash,
        adapter_sha256=sha256((folder / ADAPTER).read_bytes()),
        licence=draft.terms.licence,
    )
    file = folder / SAMPLES
    file.write_bytes(credentialed(file.read_bytes(), drawn, draft.credentials))


def _signing_key(draft: ReleaseDraft) -> str | None:
    if draft.credentials is None:
        return None
    make_key(draft.credentials)
    return signing_key(draft.credentials).pem


def _write_policy(draft: ReleaseDraft, folder: Path) -> tuple[str, ...]:
    """The policy whose hash the manifest names; nothing where it is not known any more."""
    if draft.policy is None or draft.policy.digest() != draft.policy_hash:
        return ()
    (folder / POLICY).write_bytes(draft.policy.canonical())
    return (POLICY,)


def _copy(files: Mapping[str, Path], folder: Path) -> tuple[str, ...]:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    return tuple(files)


def _prompts(draft: ReleaseDraft) -> tuple[str, ...]:
    return prompts_of([use.caption for use in c.tokens if not use.held_out] for c in draft.contributions)
