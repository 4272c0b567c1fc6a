"""Whole numbers of any size add up exactly and have one form each; files are read by tensor."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from merging import exact, wide
from merging.stored import StoredAdapter, StoredStatistics
from protocol.adapter import Factors, Sketch, dump_adapter, dump_statistics
from protocol.errors import ContributionRefused

Array = np.ndarray


def whole(rng: np.random.Generator, shape: tuple[int, int], bits: int) -> Array:
    return np.rint(np.clip(rng.normal(size=shape), -3.9, 3.9) * 2.0 ** (bits - 2))


def python_integers(values: Array) -> Array:
    return np.array([[int(v) for v in row] for row in values], dtype=object)


def numbers(one: wide.Whole) -> Array:
    digits = one.digits.astype(object)
    return digits[0] * 2**one.shift if len(digits) == 1 else digits[0] * 2**wide.LOW_BITS + digits[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 52), st.integers(1, 1500), st.integers(0, 20))
def test_a_product_of_any_width_is_exact(seed: int, left: int, right: int, inner: int, shift: int) -> None:
    assume(left + right + inner.bit_length() + shift < 108)  # what is larger is refused
    rng = np.random.default_rng(seed)
    x, y = whole(rng, (3, inner), left), whole(rng, (inner, 4), right)
    total = wide.Sum((3, 4))
    total.add_product(x, y, shift)
    expected = (python_integers(x) @ python_integers(y)) * 2**shift
    assert (numbers(total.whole()) == expected).all()
    assert (wide.product(x, wide.Operand(y)) == (expected // 2**shift).astype(float)).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.lists(st.tuples(st.integers(2, 24), st.integers(2, 50), st.integers(0, 30)), max_size=5)
)
def test_equal_sums_are_equal_bytes_by_whatever_way(seed: int, sizes: list[tuple[int, int, int]]) -> None:
    rng = np.random.default_rng(seed)
    parts = [(whole(rng, (3, 6), a), whole(rng, (6, 4), b), shift) for a, b, shift in sizes]
    forwards, backwards, more = wide.Sum((3, 4)), wide.Sum((3, 4)), whole(rng, (3, 4), 40)
    for part in parts:
        forwards.add_product(*part)
    backwards.add_product(more, np.eye(4), 7)
    for part in parts[::-1]:
        backwards.add_product(*part)
    backwards.add_product(-more, np.eye(4), 7)
    one, other = forwards.whole(), backwards.whole()
    assert one.shift == other.shift
    assert np.array_equal(one.digits, other.digits)
    doubled = (one + other) - one
    assert (doubled.shift, doubled.digits.tobytes()) == (one.shift, one.digits.tobytes())


def test_values_beyond_the_sums_reach_are_refused() -> None:
    with pytest.raises(ContributionRefused, match="too large"):
        exact.numerator([(1, exact.Term(np.ones((1, 1)), np.full((1, 1), 2.0**62)))], (1, 1))
    total = wide.Sum((1, 1))
    with pytest.raises(ContributionRefused, match="too large"):
        for _ in range(3):
            total.add_product(np.full((1, 1), 2.0**54), np.full((1, 1), 2.0**55))


def test_a_mean_of_fp16_factors_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = (0.1 * rng.normal(size=(6, 30))).astype(np.float16), (0.02 * rng.normal(size=(20, 6))).astype(np.float16)
    (term,) = exact.terms([Factors(a, b)], None)
    got = exact.numerator_value(exact.numerator([(3, term)], (20, 30)), plain=True)
    scaled = [python_integers(m.astype(np.float64) * 2.0**24) for m in (b, a)]
    assert (got == ((scaled[0] @ scaled[1]) * 3).astype(float) * 2.0**-48).all()


@pytest.mark.parametrize(("factor", "diagonal"), [(0.8, 0.2), (1.01, 0.0), (1.0, 0.0), (0.999, 0.0), (0.3, 0.7)])
def test_statistics_have_a_trace_of_one_whatever_rounding_made_of_them(factor: float, diagonal: float) -> None:
    rng = np.random.default_rng(1)
    f, d = rng.normal(size=(40, 8)), rng.random(40)
    f *= np.sqrt(factor) / np.linalg.norm(f)
    found = exact.moment(Sketch(f.astype(np.float16), diagonal * d / d.sum()))
    dense = exact.denominator_value(exact.denominator([(1, found)], 40))
    assert np.trace(dense) == pytest.approx(1.0, abs=1e-14)
    assert np.linalg.eigvalsh(dense)[0] > -1e-15
    shorter = min(1.0, 1.0 / factor)
    assert np.allclose(dense - np.diag(np.diag(dense)), shorter * (f @ f.T - np.diag(np.diag(f @ f.T))), atol=1e-3)


def test_files_are_read_tensor_by_tensor(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    adapter = {
        "mid.to_q": Factors(rng.normal(size=(3, 8)).astype(np.float16), rng.normal(size=(5, 3)).astype(np.float16)),
        "mid.conv": Factors(
            rng.normal(size=(2, 18)).astype(np.float16), rng.normal(size=(4, 2)).astype(np.float16), (3, 3)
        ),
    }
    (tmp_path / "a").write_bytes(dump_adapter(adapter))
    stored = StoredAdapter(tmp_path / "a")
    assert list(stored) == ["mid.conv", "mid.to_q"]
    for layer, factors in adapter.items():
        assert (stored[layer].a == factors.a).all()
        assert (stored[layer].b == factors.b).all()
        assert stored[layer].kernel == factors.kernel
    sketch = Sketch(np.full((4, 1), 0.25, np.float16), np.full(4, 0.1875))
    (tmp_path / "s").write_bytes(dump_statistics({"text": sketch}))
    assert list(StoredStatistics(tmp_path / "s")) == ["text"]
    assert (StoredStatistics(tmp_path / "s")["text"].factor == sketch.factor).all()
    with pytest.raises(KeyError):
        stored["mid.to_v"]


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"\x02" + b"\0" * 7 + b"{}x", b"\x04" + b"\0" * 7 + b'{"a"'])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    if data.endswith(b"{}x"):
        assert len(StoredAdapter(tmp_path / "a")) == 0
        return
    with pytest.raises(ContributionRefused, match="no safetensors file"):
        StoredAdapter(tmp_path / "a")
