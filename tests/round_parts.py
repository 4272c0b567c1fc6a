"""What the tests of rounds are made of: a base with few and small layers, and contributions that fit it.

The layers are real names of a diffusers UNet, the adapters and statistics random but well formed, the signatures
real. Nothing here trains.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from contracts_abi.model import Token
from protocol import node_key
from protocol.adapter import Factors, Sketch, dump_adapter, dump_statistics, input_group
from protocol.canonical import sha256
from protocol.contribution import (
    Contribution,
    ContributionHeader,
    ScoreReport,
    ScoreTask,
    SignedScoreReport,
    StatisticsRecipe,
    TokenUse,
    Training,
    TrainTask,
    candidates_hash,
)
from protocol.grant import RoundPlan

BLOCK = "mid_block.attentions.0"
TRANSFORMER = f"{BLOCK}.transformer_blocks.0"
SHAPES: Mapping[str, tuple[int, ...]] = {
    f"{BLOCK}.proj_in": (8, 8, 1, 1),
    f"{TRANSFORMER}.attn1.to_q": (8, 8),
    f"{TRANSFORMER}.attn1.to_k": (8, 8),
    f"{TRANSFORMER}.attn1.to_out.0": (8, 8),
    f"{TRANSFORMER}.attn2.to_k": (8, 12),
    f"{TRANSFORMER}.attn2.to_v": (8, 12),
}
PLAN = RoundPlan(rank=2, statistics_rank=4, release_rank=4, steps=1, distillation_steps=0, gains=(0.0, 1.0), quorum=2)


def write_small_base(folder: Path) -> Path:
    """A folder with a UNet's safetensors file: the adapted layers of SHAPES and some that are not adapted."""
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    weights = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    weights |= {f"{BLOCK}.proj_in.bias": np.zeros(8, np.float32), "conv_in.weight": np.zeros((8, 4, 3, 3), np.float32)}
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder


def adapter_for(seed: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES, rank: int = 2) -> dict[str, Factors]:
    """A random adapter of the layers in ``shapes``."""
    rng = np.random.default_rng(seed)
    return {
        name: Factors(
            rng.normal(0, 0.1, (rank, int(np.prod(shape[1:])))), rng.normal(0, 0.1, (shape[0], rank)), shape[2:]
        )
        for name, shape in shapes.items()
    }


def statistics_for(seed: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, Sketch]:
    """Random sketches of unit trace, one for each input group of ``shapes``."""
    rng = np.random.default_rng(seed)
    widths = {input_group(name): int(np.prod(shape[1:])) for name, shape in shapes.items()}
    return {group: _unit_trace(rng.normal(size=(n, 2)), rng.uniform(0.1, 1, n)) for group, n in widths.items()}


def contribution_for(
    task: TrainTask,
    grant_id: str,
    key: Path,
    seed: int,
    adapter: Mapping[str, Factors] | None = None,
    statistics: Mapping[str, Sketch] | None = None,
    tokens: Iterable[Token] | None = None,
) -> Contribution:
    """What a well-behaved node answers to ``task``, signed with the node key in the file ``key``."""
    chosen = tuple(task.tokens[grant_id] if tokens is None else tokens)
    uses = tuple(
        TokenUse(
            token=t,
            media_sha256=sha256(str(t).encode()),
            caption=f"noun {t.token_id}",
            held_out=i == 0 and i + 1 < len(chosen),
        )
        for i, t in enumerate(chosen)
    )
    tensors = (
        dump_adapter(adapter_for(seed) if adapter is None else adapter),
        dump_statistics(statistics_for(seed) if statistics is None else statistics),
    )
    header = ContributionHeader(
        round_id=task.round_id,
        grant_id=grant_id,
        node_key=node_key.public_of(key),
        plan_hash=task.plan.digest(),
        policy_hash=task.policy_hash,
        base_hash=task.base_hash,
        tokens=uses,
        adapter_sha256=sha256(tensors[0]),
        statistics_sha256=sha256(tensors[1]),
        recipe=StatisticsRecipe(pictures=1, sampling_steps=1, noise_levels=1, seed=0, rank=4),
        training=Training(steps=1, seconds=1.0, device="cpu", first_loss=1.0, last_loss=0.5),
    )
    return signed(Contribution(header, "", *tensors), key)


def signed(contribution: Contribution, key: Path) -> Contribution:
    """The same, signed as it is now."""
    return replace(contribution, signature=node_key.sign(key, contribution.header.canonical()))


def reply_of(contribution: Contribution) -> dict[str, bytes | str | int | float]:
    """The contribution as a node's reply."""
    return {
        "header": contribution.header.canonical(),
        "signature": contribution.signature,
        "adapter": contribution.adapter,
        "statistics": contribution.statistics,
    }


def scores_for(task: ScoreTask, grant_id: str, key: Path, losses: tuple[float, ...]) -> SignedScoreReport:
    """A member's scores of the task's candidates, the same ``losses`` for each."""
    report = ScoreReport(
        round_id=task.round_id,
        grant_id=grant_id,
        node_key=node_key.public_of(key),
        candidates_hash=candidates_hash(task.candidates),
        losses=(losses,) * len(task.candidates),
        images=1,
    )
    return SignedScoreReport(report=report, signature=node_key.sign(key, report.canonical()))


def _unit_trace(factor: np.ndarray, diagonal: np.ndarray) -> Sketch:
    trace = float((factor**2).sum() + diagonal.sum())
    return Sketch(factor / np.sqrt(trace), diagonal / trace)
