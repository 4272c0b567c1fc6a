"""Adapter and statistics files: what is written is read back, and what is hostile is refused with its reason."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from protocol.adapter import (
    Factors,
    Sketch,
    dump_adapter,
    dump_statistics,
    input_group,
    load_adapter,
    load_statistics,
)
from protocol.errors import ContributionRefused

PAIR = {
    "unet.mid.to_q.lora_A.weight": np.ones((2, 4), np.float16),
    "unet.mid.to_q.lora_B.weight": np.ones((3, 2), np.float16),
}


def test_an_adapter_is_read_back_as_it_was_written() -> None:
    rng = np.random.default_rng(0)
    adapter = {
        "mid.to_q": Factors(rng.normal(size=(2, 4)).astype(np.float16), rng.normal(size=(3, 2)).astype(np.float16)),
        "mid.proj_in": Factors(np.ones((2, 36), np.float16), np.ones((5, 2), np.float16), (3, 3)),
    }
    data = dump_adapter(adapter)
    read = load_adapter(data)
    assert read["mid.proj_in"].kernel == (3, 3)
    assert all((read[k].a == adapter[k].a).all() and (read[k].b == adapter[k].b).all() for k in adapter)
    assert dump_adapter(read) == data


def test_statistics_are_read_back_at_unit_trace() -> None:
    factor, diagonal = np.full((4, 2), 0.25, np.float32), np.full(4, 0.125, np.float32)
    read = load_statistics(dump_statistics({"text": Sketch(factor, diagonal)}))["text"]
    assert np.trace(read.dense()) == pytest.approx(1, abs=1e-3)


def test_layers_that_read_the_same_input_share_their_statistics() -> None:
    block = "down.0.transformer_blocks.0"
    assert input_group(f"{block}.attn1.to_q") == input_group(f"{block}.attn1.to_v") == f"{block}.attn1.input"
    assert input_group(f"{block}.attn2.to_k") == input_group("up.1.attn2.to_v") == "text"
    assert input_group(f"{block}.attn2.to_q") == f"{block}.attn2.input"
    assert input_group(f"{block}.ff.net.2") == f"{block}.ff.net.2"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unet.mid.to_q.lora_B.weight": None}, "not pairs"),
        ({"unet.mid.to_q.alpha": np.ones((), np.float16)}, "not pairs"),
        ({"unet.mid.to_q.lora_magnitude_vector": np.ones(3, np.float16)}, "not pairs"),
        ({"unet.mid.to_q.lora_A.weight": np.ones((3, 4), np.float16)}, "no LoRA pair"),
        ({"unet.mid.to_q.lora_A.weight": np.full((2, 4), np.nan, np.float16)}, "not finite"),
        ({"unet.mid.to_q.lora_A.weight": np.full((2, 4), np.inf, np.float16)}, "not finite"),
        ({"unet.mid.to_q.lora_A.weight": np.ones((2, 4), np.int32)}, "int32"),
        ({"unet.mid.to_q.lora_A.weight": np.ones(4, np.float16)}, "no LoRA pair"),
    ],
)
def test_an_adapter_that_may_not_be_merged_is_refused(change: dict[str, np.ndarray | None], reason: str) -> None:
    tensors = {k: v for k, v in {**PAIR, **change}.items() if v is not None}
    with pytest.raises(ContributionRefused, match=reason):
        load_adapter(save(tensors))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 5 << 20) + b" " * (6 << 20),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 60) + json.dumps({"x": {"dtype": "F16", "shape": [9], "data_offsets": [0, 2]}}).encode(),
    ],
)
def test_bytes_that_are_no_adapter_are_refused(data: bytes) -> None:
    with pytest.raises(ContributionRefused):
        load_adapter(data)


@pytest.mark.parametrize(
    ("factor", "root", "reason"),
    [
        (np.ones((4, 2)), np.ones(4), "trace"),
        (np.zeros((4, 2)), np.zeros(4), "trace"),
        (np.ones((4, 2)), np.ones(3), "no sketch"),
        (np.full((4, 2), np.nan), np.ones(4), "not finite"),
    ],
)
def test_statistics_that_would_carry_weight_are_refused(factor: np.ndarray, root: np.ndarray, reason: str) -> None:
    tensors = {"text.factor": factor.astype(np.float16), "text.diagonal": root.astype(np.float16)}
    with pytest.raises(ContributionRefused, match=reason):
        load_statistics(save(tensors))
