"""Whatever becomes of a safetensors header, a reader gets the tensors that were written, or one clear refusal."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from round_parts import adapter_for, statistics_for

from protocol.adapter import dump_adapter, dump_statistics, load_adapter, load_statistics
from protocol.errors import BadInput, ContributionRefused
from protocol.tensor_file import read_metadata, read_tensors

ADAPTER, STATISTICS = dump_adapter(adapter_for(1)), dump_statistics(statistics_for(1))
Header = dict[str, Any]
Load = Callable[[bytes], dict[str, Any]]
MESSAGE = 1500
"""A refusal is stored, logged and shown: no file may make it long."""
WHOLE = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 7, 8, 2**31, 2**53, 2**63 - 1, 2**64, 10**30])
ODD = st.one_of(
    WHOLE,
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=5),
    st.lists(WHOLE, max_size=5),
    st.dictionaries(st.text(max_size=3), WHOLE, max_size=2),
)
DTYPES = st.sampled_from(
    ["F16", "F32", "BF16", "F64", "I8", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "", "f16", "X"]
)


def parts(data: bytes) -> tuple[Header, bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def what_it_says(data: bytes) -> dict[str, tuple[Any, ...]]:
    """The plainest reader there is: each tensor's bytes are those at its offsets."""
    header, body = parts(data)
    said = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return {n: (tuple(e["shape"]), body[slice(*e["data_offsets"])]) for n, e in said.items() if e["dtype"] != "BF16"}


def read_or_refused(load: Load, data: bytes) -> None:
    """Any other end than these two fails the test."""
    try:
        found = read_tensors(data, "file")
    except BadInput as refusal:
        assert len(refusal.message) < MESSAGE
    else:
        expected = what_it_says(data)
        assert all((found[n].shape, found[n].tobytes()) == one for n, one in expected.items())
    try:
        load(data)
    except ContributionRefused as refusal:
        assert len(refusal.message) < MESSAGE


FILES = st.sampled_from([(load_adapter, ADAPTER), (load_statistics, STATISTICS)])


@st.composite
def changed_headers(draw: Any) -> tuple[Load, bytes]:
    """One of the two files, one to three fields of its header changed, its tensors' bytes as they were."""
    load, data = draw(FILES)
    header, body = parts(data)
    names = [name for name in header if name != "__metadata__"]
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(names))
        entry = header.get(name)
        match draw(
            st.sampled_from(["dtype", "shape", "offsets", "swap", "entry", "drop", "rename", "extra", "metadata"])
        ):
            case "dtype" if isinstance(entry, dict):
                entry["dtype"] = draw(st.one_of(DTYPES, ODD))
            case "shape" if isinstance(entry, dict):
                entry["shape"] = draw(st.one_of(ODD, st.lists(WHOLE, max_size=70)))
            case "offsets" if isinstance(entry, dict):
                entry["data_offsets"] = draw(st.one_of(ODD, st.lists(st.integers(-9, len(body) + 9), max_size=3)))
            case "swap" if isinstance(entry, dict):
                other = header.get(draw(st.sampled_from(names)))
                if isinstance(other, dict) and "data_offsets" in other:
                    entry["data_offsets"] = other["data_offsets"]
            case "entry":
                header[name] = draw(ODD)
            case "drop":
                header.pop(name, None)
            case "rename":
                header[draw(st.text(max_size=400))] = header.pop(name, {})
            case "extra":
                header[draw(st.text(max_size=8))] = {"dtype": draw(DTYPES), "shape": [0], "data_offsets": [0, 0]}
            case "metadata":
                header["__metadata__"] = draw(ODD)
    return load, joined(json.dumps(header).encode(), body)


@st.composite
def broken_bytes(draw: Any) -> tuple[Load, bytes]:
    """One of the two files cut, lengthened, lied about in its length, or with bytes of its header changed."""
    load, data = draw(FILES)
    match draw(st.sampled_from(["cut", "trail", "length", "bytes"])):
        case "cut":
            data = data[: draw(st.integers(0, len(data) - 1))]
        case "trail":
            data += draw(st.binary(min_size=1, max_size=20))
        case "length":
            data = struct.pack("<Q", draw(st.integers(0, 2**64 - 1))) + data[8:]
        case "bytes":
            changed = bytearray(data)
            (length,) = struct.unpack("<Q", data[:8])
            for at in draw(st.lists(st.integers(0, 8 + length - 1), min_size=1, max_size=4)):
                changed[at] = draw(st.integers(0, 255))
            data = bytes(changed)
    return load, data


@given(changed_headers())
@settings(max_examples=400, deadline=None)
def test_a_changed_header_is_refused_or_read_as_it_says(case: tuple[Load, bytes]) -> None:
    read_or_refused(*case)


@given(broken_bytes())
@settings(max_examples=400, deadline=None)
def test_a_broken_file_is_refused_or_read_as_it_says(case: tuple[Load, bytes]) -> None:
    read_or_refused(*case)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_refused_or_read_as_they_say(data: bytes) -> None:
    read_or_refused(load_adapter, joined(data, b""))
    read_or_refused(load_adapter, data)


def one(name: str = "a", shape: str = "[1]", offsets: str = "[0,2]", dtype: str = '"F16"', more: str = "") -> str:
    return f'"{name}":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{more}}}'


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("[" * 100_000, "no JSON"),
        ('{"a":' * 100_000, "no JSON"),
        ("{" + one() + "," + one(offsets="[2,4]") + "}", "says a thing twice"),
        ('{"a":{"dtype":"F16","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "says a thing twice"),
        ('{"__metadata__":{"a":"1","a":"2"}}', "says a thing twice"),
        ("[]", "no JSON object"),
        ("{" + one(shape="[" + "9" * 5000 + "]") + "}", "no JSON"),
        ("{" + one("n" * 301) + "}", "at most 300 characters"),
        ("{" + one("line\\nbreak") + "}", "no plain text"),
        ("{" + one(shape=str([1] * 70)) + "}", "70 dimensions"),
        ("{" + one() + "," + one("b") + "}", "no safetensors"),
        ("{" + one(offsets="[0,6]") + "}", "no safetensors"),
        ("{" + one(offsets="[2,0]") + "}", "no safetensors"),
        ("{" + one(shape="[4294967296,4294967296]") + "}", "no safetensors"),
        ("{" + one(shape="[-1]") + "}", "no safetensors"),
        ("{" + one(shape="[2]", dtype='"F4"', offsets="[0,1]") + "}", "safetensors|float16"),
    ],
)
def test_what_readers_might_differ_about_is_refused_with_the_reason(header: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        read_tensors(joined(header.encode(), b"\0\0\0\0"[: 4 if "[2,4]" in header else 2]), "file")


def test_metadata_that_is_no_text_is_refused() -> None:
    with pytest.raises(BadInput, match="metadata is not text"):
        read_metadata(joined(b'{"__metadata__":{"a":{"b":1}}}', b""))


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 4 << 20) + b"{}",
        joined(("{" + one(shape="[1000000000000]", offsets="[0,2000000000000]") + "}").encode(), b"\0\0"),
        joined(("{" + one(shape="[0,1000000000000]", offsets="[0,0]") + "}").encode(), b""),
        joined(b"[" * (1 << 20), b""),
    ],
)
def test_what_a_header_promises_is_not_allocated(data: bytes) -> None:
    tracemalloc.start()
    try:
        read_or_refused(load_adapter, data)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(data) + (4 << 20)
    finally:
        tracemalloc.stop()
