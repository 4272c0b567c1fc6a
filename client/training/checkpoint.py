"""A checkpoint: one safetensors file with every tensor that training goes on from, the rest as JSON in its header.

It is replaced whole. Training that goes on from it does what it would have done, to the bit on a CPU; it is used only
where plan, options, base and every example are the same.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from client.training.cache import replace_durably

FILE = "checkpoint.safetensors"
State = dict[str, Any]
"""JSON values, and tensors at any depth of dicts and lists."""


def save_checkpoint(folder: Path, key: str, state: State) -> None:
    """Write ``folder``'s checkpoint; OSError (a full disk) leaves the one before."""
    tensors: dict[str, Tensor] = {}
    plain = _without_tensors(state, "", tensors)
    replace_durably(folder / FILE, save(tensors, {"key": key, "state": json.dumps(plain)}))


def load_checkpoint(folder: Path, key: str) -> State | None:
    """The state that was saved under this key; None when there is none, or another's, or a damaged one."""
    with contextlib.suppress(OSError, SafetensorError, ValueError), safe_open(folder / FILE, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("key") != key:
            return None
        names = list(file.keys())
        state = _with_tensors(json.loads(metadata["state"]), {name: file.get_tensor(name) for name in names})
        return state if isinstance(state, dict) else None
    return None


def drop_checkpoint(folder: Path) -> None:
    """What it was for is done."""
    (folder / FILE).unlink(missing_ok=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """``state_dict`` with text keys, as JSON has them."""
    state = optimizer.state_dict()
    return {"state": {str(k): v for k, v in state["state"].items()}, "param_groups": state["param_groups"]}


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: State) -> None:
    """The inverse of ``optimizer_state``; JSON's lists become tuples where the optimizer has tuples."""
    groups = []
    for own, kept in zip(optimizer.state_dict()["param_groups"], saved["param_groups"], strict=True):
        groups.append({k: tuple(v) if isinstance(own.get(k), tuple) else v for k, v in kept.items()})
    optimizer.load_state_dict({"state": {int(k): v for k, v in saved["state"].items()}, "param_groups": groups})


_TENSOR = "$tensor"


def _without_tensors(value: Any, path: str, found: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A clone each: safetensors refuses tensors that share memory.
        found[path] = value.detach().cpu().clone().contiguous()
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        return {str(k): _without_tensors(v, f"{path}/{k}", found) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(v, f"{path}/{i}", found) for i, v in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {k: _with_tensors(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_tensors(v, tensors) for v in value]
    return value
