"""What a contribution must be before it is taken. Pure, but for reading the shapes of the base's layers."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from contracts_abi.model import Token
from merging import exact
from merging.wide import WHOLE_BITS
from protocol.adapter import (
    ADAPTED,
    ADAPTED_IN_TRANSFORMER,
    Adapter,
    Factors,
    Statistics,
    input_group,
    layer_in,
    load_adapter,
    load_statistics,
)
from protocol.contribution import Contribution, ContributionHeader
from protocol.errors import BadInput, ContributionRefused
from protocol.fixed_factors import FixedFactors
from protocol.grant import RoundPlan
from protocol.modes import Mode
from protocol.update import load_update

HEADROOM = 16
"""The largest deltas of the embedded base fit a thousand times."""


@dataclass(frozen=True)
class Layer:
    """A weight of the base: (d_out, d_in) with the kernel flattened into d_in."""

    d_out: int
    d_in: int
    kernel: tuple[int, ...] = ()


Layers = Mapping[str, Layer]


@dataclass(frozen=True)
class Terms:
    """What a round asks of one grant's contribution."""

    round_id: str
    grant_id: str
    node_key: str
    plan: RoundPlan
    policy_hash: str
    base_hash: str
    admitted: frozenset[Token]
    layers: Layers


def adapted_layers(base: Path) -> dict[str, Layer]:
    """The shapes of the base's adapted layers, read from the headers of its denoiser's safetensors files.

    Raises:
        BadInput: the folder holds no UNet or transformer in safetensors, or none of its layers is adapted.
    """
    denoiser, ends = ("transformer", ADAPTED_IN_TRANSFORMER) if (base / "transformer").is_dir() else ("unet", ADAPTED)
    shapes: dict[str, list[int]] = {}
    for file in sorted((base / denoiser).glob("*.safetensors")):
        shapes |= _shapes(file)
    layers = {
        layer_in(denoiser, name): Layer(shape[0], prod(shape[1:]), tuple(shape[2:]))
        for key, shape in sorted(shapes.items())
        if (name := key.removesuffix(".weight")) != key and len(shape) > 1 and _ends(name, ends)
    }
    if not layers:
        raise BadInput(f"{base}/{denoiser} holds no layer that can be adapted.", "Name a diffusers folder as the base.")
    return layers


def check(contribution: Contribution, terms: Terms) -> None:
    """Everything that can be told from a contribution and the round's terms.

    Raises:
        ContributionRefused: with what is wrong.
        BadInput: the header cannot be hashed, so there is no contribution to refuse.
    """
    contribution.header.canonical()
    check_header(contribution.header, terms)
    contribution.check_integrity()
    if terms.plan.mode is not Mode.OPEN:
        load_update(contribution.adapter, fixed_factors(terms.layers, terms.base_hash, terms.plan).size)
        return
    adapter, statistics = load_adapter(contribution.adapter), load_statistics(contribution.statistics)
    check_adapter(adapter, terms.layers, terms.plan)
    check_statistics(statistics, terms.layers, terms.plan)
    check_room(adapter, statistics)


def fixed_factors(layers: Layers, base_hash: str, plan: RoundPlan) -> FixedFactors:
    """The factors of a private round, from the shapes of the base's adapted layers."""
    shapes = {name: (one.d_out, one.d_in // prod(one.kernel), *one.kernel) for name, one in layers.items()}
    return FixedFactors.of(plan, base_hash, shapes)


def check_header(header: ContributionHeader, terms: Terms) -> None:
    """The contribution is meant for this round, by this grant, on admitted tokens only."""
    for what, said, meant in (
        ("round", header.round_id, terms.round_id),
        ("grant", header.grant_id, terms.grant_id),
        ("node key", header.node_key, terms.node_key),
        ("plan", header.plan_hash, terms.plan.digest()),
        ("policy", header.policy_hash, terms.policy_hash),
        ("base", header.base_hash, terms.base_hash),
    ):
        if said != meant:
            raise ContributionRefused(f"The contribution is for another {what}: {said[:16]}, not {meant[:16]}.")
    tokens = [use.token for use in header.tokens]
    if len(set(tokens)) != len(tokens):
        raise ContributionRefused("The contribution names a token twice.")
    if strange := sorted(set(tokens) - terms.admitted):
        raise ContributionRefused(f"{strange[0]} is not among the tokens that this round admits for the grant.")
    if all(use.held_out for use in header.tokens):
        raise ContributionRefused("The contribution was trained on no token.")
    told = [header.statistics_sha256, header.recipe, header.training]
    if terms.plan.mode is Mode.OPEN and None in told:
        raise ContributionRefused("The contribution comes without its statistics, their recipe or its training.")
    if terms.plan.mode is not Mode.OPEN and told != [None, None, None]:
        raise ContributionRefused(f"The contribution tells more than a {terms.plan.mode} round takes.")


def check_adapter(adapter: Adapter, layers: Layers, plan: RoundPlan) -> None:
    """Exactly the base's adapted layers, in their shapes, at no more than the plan's rank, and not zero."""
    if differing := sorted(set(adapter) ^ set(layers)):
        side = "lacks" if differing[0] in layers else "has a layer that is not adapted:"
        raise ContributionRefused(f"The adapter {side} {differing[0]} ({len(differing)} layers differ).")
    for name, factors in adapter.items():
        layer = layers[name]
        if (factors.b.shape[0], factors.a.shape[1], factors.kernel) != (layer.d_out, layer.d_in, layer.kernel):
            raise ContributionRefused(f"{name} has other shapes than the base's layer.")
        if factors.rank > plan.rank:
            raise ContributionRefused(f"{name} has rank {factors.rank}; the plan's limit is {plan.rank}.")
    if not any(_squared_norm(factors) > 0 for factors in adapter.values()):
        raise ContributionRefused("The adapter changes nothing: every layer's delta is zero.")


def check_statistics(statistics: Statistics, layers: Layers, plan: RoundPlan) -> None:
    """One sketch for each group of layers that share an input, as wide as that input."""
    widths = {input_group(name): layer.d_in for name, layer in layers.items()}
    if differing := sorted(set(statistics) ^ set(widths)):
        raise ContributionRefused(f"The statistics' groups are not the base's: {differing[0]}.")
    for group, sketch in statistics.items():
        width, rank = sketch.factor.shape
        if width != widths[group]:
            raise ContributionRefused(
                f"{group}: the statistics are {width} wide; the layers' input is {widths[group]}."
            )
        if rank > plan.statistics_rank:
            raise ContributionRefused(f"{group}: the statistics have rank {rank}; the limit is {plan.statistics_rank}.")


def check_room(adapter: Adapter, statistics: Statistics) -> None:
    """The delta fits into the exact sums ``HEADROOM`` times; else the merge would fail for everybody."""
    moments = {group: exact.moment(sketch) for group, sketch in statistics.items()}
    for name, factors in adapter.items():
        (term,) = exact.terms([factors], moments[input_group(name)])
        if float(np.abs(term.right).max(initial=0.0)) * HEADROOM >= 2.0**WHOLE_BITS:
            raise ContributionRefused(f"{name}: the delta's values are too large.", "Train with a lower learning rate.")


def _squared_norm(factors: Factors) -> float:
    """‖B A‖² = <Bᵀ B, A Aᵀ>, without the dense product."""
    a, b = factors.a.astype(np.float64), factors.b.astype(np.float64)
    return float(np.sum((b.T @ b) * (a @ a.T)))


def _ends(name: str, ends: tuple[str, ...]) -> bool:
    return any(name.endswith(f".{end}") for end in ends)


def _shapes(file: Path) -> dict[str, list[int]]:
    """Tensor shapes by name: a safetensors file begins with the length of its JSON header, 8 bytes little-endian."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
