"""Fixed factors: the same bytes everywhere, orthonormal to the last bit, and a sum over them is the exact mean."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from protocol.adapter import dump_adapter, load_adapter
from protocol.errors import ContributionRefused
from protocol.fixed_factors import FixedFactors, FixedLayer, Learned, orthonormal_rows

WIDTHS = (1, 2, 3, 4, 7, 16, 32, 85, 128, 320, 640, 768, 1280, 2048, 3072)
LAYERS = (
    FixedLayer(name="down.attn1.to_q", d_out=24, d_in=32),
    FixedLayer(name="mid.proj_in", d_out=20, d_in=36, kernel=(3, 3)),
    FixedLayer(name="up.ff.net.2", d_out=6, d_in=48),
)


def factors(learned: Learned, rank: int = 8) -> FixedFactors:
    return FixedFactors(seed="epoch 1", learned=learned, rank=rank, layers=LAYERS)


def update_for(fixed: FixedFactors, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=fixed.size)


def dense(fixed: FixedFactors, update: np.ndarray) -> np.ndarray:
    """Every layer's Δ as one vector."""
    adapter = fixed.adapter(update)
    return np.concatenate([(f.b.astype(float) @ f.a.astype(float)).ravel() for f in adapter.values()])


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_are_orthonormal_without_any_rounding(width: int) -> None:
    rank = min(width, 64)
    rows = orthonormal_rows("layer", rank, width).astype(np.float64)
    assert (rows @ rows.T == np.eye(rank)).all()


@pytest.mark.parametrize("width", [4096, 10240])
def test_the_widest_layers_are_carried_by_fp16_too(width: int) -> None:
    rows = orthonormal_rows("layer", 16, width).astype(np.float64)
    assert (rows @ rows.T == np.eye(16)).all()
    assert (np.abs(rows) > 0).mean() > 0.5, "rows spread over the whole input"


@pytest.mark.parametrize(
    ("name", "rank", "width", "expected"),
    [("a", 4, 32, "b8bb629e974586b9"), ("b", 16, 320, "db421f575be343b1"), ("c", 8, 1280, "14bdca9c048e4f49")],
)
def test_the_bytes_are_these_on_every_machine(name: str, rank: int, width: int, expected: str) -> None:
    """Written down once: an epoch's members and its releases depend on them for ever."""
    stored = orthonormal_rows(name, rank, width).astype("<f2").tobytes()
    assert hashlib.sha256(stored).hexdigest()[:16] == expected


def test_a_smaller_rank_is_the_beginning_of_a_larger_one() -> None:
    assert (orthonormal_rows("x", 32, 320)[:8] == orthonormal_rows("x", 8, 320)).all()


def test_no_direction_of_the_input_is_preferred() -> None:
    """E[AᵀA] = (r / d) I: over many layers, every input and every pair of inputs is read alike."""
    rank, width, draws = 4, 20, 3000
    seen = np.zeros((width, width))
    for number in range(draws):
        rows = orthonormal_rows(f"{number}", rank, width).astype(np.float64)
        seen += rows.T @ rows
    assert np.abs(seen / draws - rank / width * np.eye(width)).max() < 0.02


def test_seeds_and_layers_have_factors_of_their_own() -> None:
    one, other = factors(Learned.CORE), factors(Learned.CORE).model_copy(update={"seed": "epoch 2"})
    drawn = [one.a(LAYERS[0]), other.a(LAYERS[0]), one.a(LAYERS[2])[:, :32], one.b(LAYERS[0]).T]
    assert all(not np.array_equal(a, b) for a, b in pairwise(drawn))


def test_nobody_can_write_into_a_shared_factor() -> None:
    with pytest.raises(ValueError, match="read-only"):
        orthonormal_rows("x", 4, 16)[0, 0] = 1


@pytest.mark.parametrize("learned", Learned)
def test_an_update_is_as_long_as_its_delta(learned: Learned) -> None:
    fixed = factors(learned)
    update = update_for(fixed, 1)
    assert np.linalg.norm(dense(fixed, update)) == pytest.approx(np.linalg.norm(update), rel=1e-12)


@pytest.mark.parametrize("learned", Learned)
def test_the_mean_of_updates_is_the_mean_of_deltas(learned: Learned) -> None:
    fixed = factors(learned)
    updates, weights = [update_for(fixed, n) for n in range(5)], np.array([1, 2, 3, 1, 1])
    mean = np.average(updates, axis=0, weights=weights)
    deltas = np.average([dense(fixed, one) for one in updates], axis=0, weights=weights)
    assert np.allclose(dense(fixed, mean), deltas, rtol=0, atol=1e-12)


@pytest.mark.parametrize("learned", Learned)
def test_layers_come_back_out_of_the_vector(learned: Learned) -> None:
    fixed = factors(learned)
    update = update_for(fixed, 2)
    assert (fixed.flat(fixed.by_layer(update)) == update).all()
    assert [shape for _, shape in fixed.shapes()] == (
        [(24, 8), (20, 8), (6, 8)] if learned is Learned.B else [(8, 8), (8, 8), (6, 6)]
    )


@pytest.mark.parametrize("learned", Learned)
def test_the_release_is_an_ordinary_adapter_with_the_very_same_a(learned: Learned) -> None:
    fixed = factors(learned)
    stored = load_adapter(dump_adapter(fixed.adapter(update_for(fixed, 3))))
    assert {name: one.kernel for name, one in stored.items()} == {one.name: one.kernel for one in LAYERS}
    for layer in LAYERS:
        assert (stored[layer.name].a == fixed.a(layer)).all()


def test_an_update_of_other_layers_or_shapes_is_refused() -> None:
    fixed = factors(Learned.B)
    parts = fixed.by_layer(update_for(fixed, 1))
    with pytest.raises(ContributionRefused, match=r"layers are not the round's: mid\.proj_in is in one only"):
        fixed.flat({name: part for name, part in parts.items() if name != "mid.proj_in"})
    with pytest.raises(ContributionRefused, match=r"up\.ff\.net\.2: shape \(8, 6\) is not the round's \(6, 8\)"):
        fixed.flat(parts | {"up.ff.net.2": parts["up.ff.net.2"].T})
    with pytest.raises(ContributionRefused, match=rf"the round's is \({fixed.size},\)"):
        fixed.by_layer(np.zeros(3))


def test_layers_have_one_order() -> None:
    with pytest.raises(ValidationError, match="not sorted by name"):
        FixedFactors(seed="s", learned=Learned.B, rank=4, layers=LAYERS[::-1])
    with pytest.raises(ValidationError, match="named twice"):
        FixedFactors(seed="s", learned=Learned.B, rank=4, layers=(LAYERS[0], LAYERS[0]))
