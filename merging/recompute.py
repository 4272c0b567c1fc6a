"""A release merged again from its contributions: the same integer sums, and as far as floats allow the same adapter."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from merging.merge import TOLERANCE, Anchor, Merged, MergeInput, merge
from protocol.adapter import Adapter, Factors, load_adapter
from protocol.base import BASE_STATISTICS
from protocol.canonical import sha256
from protocol.errors import BadInput, ContentMismatch
from protocol.manifest import MergedContribution, contribution_file
from protocol.modes import Mode
from protocol.policy import RobustRule
from protocol.verification.papers import Release, policy_weights
from protocol.verification.report import Check, NotChecked, checked

ADAPTER = "pytorch_lora_weights.safetensors"
ALIKE = 2e-3
"""‖published − made again‖ over ‖published‖, all layers: fp16 factors are 5e-4 off, and solvers differ in last bits."""


def recompute(release: Release, folder: Path | None = None, processes: int = 1) -> list[Check]:
    """Merge what is in the release, or in ``folder`` (laid out like it), and compare. Two checks."""
    made: list[Merged] = []
    there = folder or release.folder

    def sums() -> str:
        made.append(_merged(release, there, processes))
        manifest, merged = release.manifest, made[0]
        if merged.commitment != manifest.merge.commitment:
            raise ContentMismatch("Merged again, the integer sums have another commitment than the manifest's.")
        for one in manifest.contributions:
            if merged.accounts[one.contribution_id].weight != one.weight:
                raise ContentMismatch(f"Merged again, contribution {one.contribution_id} has another weight.")
        return f"Merged again from {len(manifest.contributions)} contributions: the same integer sums, bit for bit."

    return [checked("merge: integer sums", sums), checked("merge: adapter", lambda: _adapter(release, made, there))]


def _anchor(release: Release, folder: Path) -> Anchor | None:
    """G₀ where the manifest says which one the merge had, and that one is here."""
    said = release.manifest.merge.base_statistics
    for file in (folder / BASE_STATISTICS, release.folder / BASE_STATISTICS):
        if said and file.is_file() and sha256(file.read_bytes()) == said.sha256:
            return Anchor(release.manifest.plan.base_weight, file)
    return None


def _merged(release: Release, folder: Path, processes: int) -> Merged:
    manifest, weights = release.manifest, policy_weights(release)
    if manifest.plan.mode is not Mode.OPEN:
        raise NotChecked(f"A {manifest.plan.mode} release cannot be merged again by anybody: that is what it gives up.")
    if weights is None or release.policy is None:
        raise NotChecked("The release does not say what weights its contributions had by policy.")
    trimmed = "without outliers" in manifest.merge.candidate
    rule = RobustRule.MULTI_KRUM if trimmed else release.policy.robust
    inputs = [_input(one, weights[one.contribution_id], folder) for one in manifest.contributions]
    return merge(inputs, manifest.plan, rule, processes, anchor=_anchor(release, folder))


def _input(one: MergedContribution, weight: int, folder: Path) -> MergeInput:
    """The contribution's files, which must be those that its node signed."""

    def signed(what: str, digest: str | None) -> Path:
        file = folder / contribution_file(one.contribution_id, what)
        if not file.is_file():
            raise NotChecked(f"{file.name} of contribution {one.contribution_id} is not here; name its folder.")
        if sha256(file.read_bytes()) != digest:
            raise ContentMismatch(f"{file.name} of contribution {one.contribution_id} is not what its node signed.")
        return file

    adapter, statistics = (
        signed("adapter", one.header.adapter_sha256),
        signed("statistics", one.header.statistics_sha256),
    )
    counted = (one.statistics_error or 0.0) <= TOLERANCE
    return MergeInput(one.contribution_id, weight, adapter, statistics if counted else None, one.received_at or 0)


def _adapter(release: Release, made: list[Merged], folder: Path) -> str:
    manifest = release.manifest
    if not made:
        raise NotChecked("The sums could not be made again.")
    if "distilled" in manifest.merge.candidate:
        raise NotChecked(
            "The published adapter was distilled from these sums, with pictures that its base draws: that is training, "
            "which no two machines do alike to the last bit."
        )
    if manifest.plan.base_weight and _anchor(release, folder) is None:
        raise NotChecked(
            f"The base's own statistics are in the solution, and no {BASE_STATISTICS} of the manifest's hash is here."
        )
    if made[0].rank != manifest.merge.rank:
        raise ContentMismatch(f"Merged again it has rank {made[0].rank}, not {manifest.merge.rank}.")
    published = load_adapter((release.folder / ADAPTER).read_bytes())
    off = distance(published, made[0].adapter, manifest.merge.gain)
    if not off <= ALIKE:
        raise ContentMismatch(f"The published adapter is {off:.1%} away from what the contributions merge to.")
    return f"The published adapter is what they merge to at gain {manifest.merge.gain:g}, but for {off:.1e} (fp16)."


def distance(published: Adapter, merged: Adapter, gain: float) -> float:
    """‖published − gain · merged‖ / ‖published‖, Frobenius over all layers.

    Raises:
        BadInput: they adapt different layers.
    """
    if differing := sorted(set(published) ^ set(merged)):
        raise BadInput(f"The published adapter and the contributions adapt different layers: {differing[0]}.")
    off = whole = 0.0
    for layer, factors in published.items():
        said = _dense(factors)
        off += float(np.square(said - gain * _dense(merged[layer])).sum())
        whole += float(np.square(said).sum())
    return math.sqrt(off / whole) if whole else math.sqrt(off)


def _dense(factors: Factors) -> NDArray[np.float64]:
    return np.asarray(factors.b.astype(np.float64) @ factors.a.astype(np.float64))
