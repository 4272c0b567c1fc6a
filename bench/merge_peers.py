"""Other ways to merge LoRAs, each as its authors do it, over the members' files.

``averaged``: A and B by themselves, padded to one rank (Flower's examples). ``peft_svd``, ``peft_cat``: peft's own
``add_weighted_adapter``. ``dense_svd``: the dense sum, cut by SVD (FlexLoRA, Bai et al. 2024).
``stacked``: factors side by side, at the sum of the ranks (FLoRA, Wang et al. 2024). All in fp32, as these tools run.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.merge_members import RANKS, shapes
from merging.stored import StoredAdapter
from protocol.adapter import Array

Pairs = Iterator[tuple[str, Array, Array]]
"""Layer, A (r, d_in), B (d_out, r)."""


def averaged(files: Sequence[Path], rank: int) -> Pairs:
    """The mean of A and the mean of B, at the members' largest rank."""
    members = [StoredAdapter(path) for path in files]
    for layer, (m, n) in shapes().items():
        a, b = np.zeros((max(RANKS), n), np.float32), np.zeros((m, max(RANKS)), np.float32)
        for one in members:
            factors = one[layer]
            a[: factors.rank] += factors.a
            b[:, : factors.rank] += factors.b
        yield layer, a / len(members), b / len(members)


def dense_svd(files: Sequence[Path], rank: int) -> Pairs:
    """The mean of the products, dense, and its SVD."""
    members = [StoredAdapter(path) for path in files]
    for layer, shape in shapes().items():
        total = torch.zeros(shape)
        for one in members:
            factors = one[layer]
            total += _tensor(factors.b) @ _tensor(factors.a)
        u, s, vt = torch.linalg.svd(total / len(members), full_matrices=False)
        yield layer, vt[:rank].numpy(), (u[:, :rank] * s[:rank]).numpy()


def stacked(files: Sequence[Path], rank: int) -> Pairs:
    """All factors side by side: exact, at the sum of the ranks."""
    members = [StoredAdapter(path) for path in files]
    for layer in shapes():
        factors = [one[layer] for one in members]
        b = np.concatenate([one.b for one in factors], axis=1).astype(np.float32) / len(members)
        yield layer, np.concatenate([one.a for one in factors]).astype(np.float32), b


def peft_svd(files: Sequence[Path], rank: int) -> Pairs:
    """peft's combination type ``svd``."""
    return _peft(files, "svd", rank)


def peft_cat(files: Sequence[Path], rank: int) -> Pairs:
    """peft's combination type ``cat``."""
    return _peft(files, "cat", rank)


PEERS: dict[str, Callable[[Sequence[Path], int], Pairs]] = {
    one.__name__: one for one in (averaged, peft_svd, peft_cat, dense_svd, stacked)
}


def _peft(files: Sequence[Path], kind: str, rank: int) -> Pairs:
    from peft import LoraConfig, get_peft_model

    names = {layer: layer.replace(".", "_") for layer in shapes()}
    with torch.device("meta"):
        linears = {names[layer]: nn.Linear(n, m, bias=False) for layer, (m, n) in shapes().items()}
    model = nn.ModuleDict(linears).to_empty(device="cpu")
    members = [StoredAdapter(path) for path in files]
    ranks = [next(iter(one.values())).rank for one in members]
    configs = [LoraConfig(r=r, lora_alpha=r, target_modules=list(names.values())) for r in ranks]
    whole: Any = get_peft_model(model, configs[0], adapter_name="0")
    for at, config in enumerate(configs[1:], start=1):
        whole.add_adapter(str(at), config)
    layers = {layer: whole.base_model.model[name] for layer, name in names.items()}
    with torch.no_grad():
        for at, one in enumerate(members):
            for layer, linear in layers.items():
                linear.lora_A[str(at)].weight.copy_(_tensor(one[layer].a))
                linear.lora_B[str(at)].weight.copy_(_tensor(one[layer].b))
    weights = [1.0 / len(members)] * len(members)
    told = {"svd_rank": rank} if kind == "svd" else {}
    whole.add_weighted_adapter([str(at) for at in range(len(members))], weights, "all", combination_type=kind, **told)
    for layer, linear in layers.items():
        yield layer, linear.lora_A["all"].weight.detach().numpy(), linear.lora_B["all"].weight.detach().numpy()


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
