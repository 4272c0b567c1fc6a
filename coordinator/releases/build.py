"""Build a release's folder: adapter, manifest, card, samples. The same draft gives the same bytes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contracts_abi.model import Snapshot
from coordinator.aggregation.merge import Merged, scaled_by
from coordinator.releases.card import card
from coordinator.releases.samples import SAMPLES, draw_samples
from protocol.adapter import dump_adapter
from protocol.canonical import sha256
from protocol.grant import RoundPlan
from protocol.manifest import (
    BaseReference,
    GainScore,
    Manifest,
    Merge,
    MergedContribution,
    Removal,
)
from protocol.policy import LICENCES, Verdict

ADAPTER = "pytorch_lora_weights.safetensors"
MANIFEST = "manifest.json"
CARD = "README.md"
PROMPTS = 8


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
    gain: float
    scores: tuple[GainScore, ...]
    scored_by: int


def build(draft: ReleaseDraft, merged: Merged, base: Path, folder: Path) -> Manifest:
    """Write the release into ``folder`` (created) and return its manifest.

    Args:
        merged: the collective at gain 1; the draft's gain is folded into the published factors.
        base: the base's diffusers folder, for the sample sheet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapter = dump_adapter(scaled_by(merged.adapter, draft.gain), _metadata(draft, merged))
    (folder / ADAPTER).write_bytes(adapter)
    draw_samples(base, folder, _prompts(draft), seed=draft.plan.seed)
    licence, duties = _licence(draft)
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
            regularisation=draft.plan.regularisation,
            rank=merged.rank,
            tail=merged.tail,
            commitment=merged.commitment,
            gain=draft.gain,
            scores=draft.scores,
            scored_by=draft.scored_by,
        ),
        licence=licence,
        duties=duties,
        files={},
    )
    (folder / CARD).write_text(card(manifest, _prompts(draft)), encoding="utf-8")
    hashes = {name: sha256((folder / name).read_bytes()) for name in (ADAPTER, CARD, SAMPLES)}
    manifest = manifest.model_copy(update={"files": hashes})
    (folder / MANIFEST).write_bytes(manifest.canonical())
    return manifest


def _metadata(draft: ReleaseDraft, merged: Merged) -> Mapping[str, str]:
    """What loaders look for in the header: diffusers' own LoRA metadata (alpha!), and modelspec's fields."""
    lora = {
        "unet.r": merged.rank,
        "unet.lora_alpha": merged.rank,
        "unet.target_modules": sorted(merged.adapter),
    }
    return {
        "format": "pt",
        "lora_adapter_metadata": json.dumps(lora, sort_keys=True),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"{draft.dao} collective, {draft.round_id}",
        "modelspec.merged_from": ", ".join(c.contribution_id for c in draft.contributions),
    }


def _prompts(draft: ReleaseDraft) -> tuple[str, ...]:
    """Captions of what the collective was trained on, the members taking turns."""
    captions = [[use.caption for use in c.tokens if not use.held_out] for c in draft.contributions]
    longest = max(map(len, captions), default=0)
    turns = [member[i] for i in range(longest) for member in captions if i < len(member)]
    return tuple(dict.fromkeys(turns))[:PROMPTS]


def _licence(draft: ReleaseDraft) -> tuple[str, tuple[str, ...]]:
    """CC0 when all that went in was; otherwise the licences that went in, by name, and all their duties."""
    names = sorted({name for c in draft.contributions for name in c.licences})
    duties = sorted({duty for name in names if name in LICENCES for duty in LICENCES[name].duties})
    return ("CC0" if names == ["CC0"] else " AND ".join(names)), tuple(duties)
