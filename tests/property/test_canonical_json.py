"""One byte string for one document: RFC 8785, held against its own examples and against a JavaScript engine's."""

import json
import math
import shutil
import struct
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import canonical
from protocol.errors import BadInput

SAFE = 2**53 - 1
# RFC 8785, appendix B: IEEE 754 bits in hex, and the text.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}
numbers = st.one_of(st.integers(-SAFE, SAFE), st.floats(allow_nan=False, allow_infinity=False))
documents = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=20,
)


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_the_rfc_s_own_numbers(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(number).decode() == text


def test_keys_are_ordered_by_utf_16_units_and_text_is_escaped_as_little_as_may_be() -> None:
    given_, wanted = (
        {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7},
        '{"\\r":2,"1":4,"\u0080":6,"\u00f6":7,"\u20ac":1,"\U0001f600":5,"\ufb33":3}',
    )
    assert canonical(given_).decode() == wanted
    assert canonical('\u20ac$\x0f\nA\'B"\\"/\x7f').decode() == '"\u20ac$\\u000f\\nA\'B\\"\\\\\\"/\x7f"'


@given(documents)
def test_what_is_read_back_is_the_same_document_with_the_same_bytes(value: Any) -> None:
    data = canonical(value)
    assert canonical(json.loads(data, parse_int=float)) == data
    assert json.loads(data, parse_int=float) == value


@given(st.dictionaries(st.text(max_size=3), st.none(), max_size=6))
def test_the_order_of_keys_in_memory_does_not_matter(value: dict[str, None]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, SAFE + 1, -SAFE - 1, "\ud800", {"\udc00": 1}, {1: 2}, object()]
)
def test_what_has_no_canonical_form_is_refused_with_a_sentence(value: Any) -> None:
    with pytest.raises(BadInput, match="cannot be hashed"):
        canonical(value)


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no JavaScript engine here")
def test_numbers_are_written_as_javascript_writes_them() -> None:
    # From the smallest to the largest, and where the notation changes; every value is exact in both languages.
    values = [sign * m * 2.0**e for e in range(-1070, 1020, 13) for m in (1.0, 1.1, 4 / 3) for sign in (1, -1)]
    values += [10.0**e for e in range(-30, 31)] + [0.1 + 0.2, 1e21 - 65536, 123456789.0, 5e-324]
    script = (
        "const v=JSON.parse(require('fs').readFileSync(0));process.stdout.write(v.map(x=>JSON.stringify(x)).join())"
    )
    text = json.dumps([float(value) for value in values])
    done = subprocess.run(["node", "-e", script], input=text, capture_output=True, text=True, check=True)
    assert canonical(values).decode() == f"[{done.stdout}]"
