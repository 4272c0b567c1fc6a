"""What bad contributions can do to a merge under each rule: fifty contributions, ten of them bad."""

import numpy as np
import pytest

from merging.gram import gram, sketched_gram
from merging.robust import UNIT, geometric_median, multi_krum, shares
from protocol.adapter import Factors
from protocol.errors import BadInput
from protocol.policy import RobustRule

HONEST, BAD, RANK = 40, 10, 4


def honest(rng: np.random.Generator, common: Factors) -> dict[str, Factors]:
    """A delta that agrees with the others at a cosine of about one half."""
    a, b = rng.normal(size=(RANK, 30)), rng.normal(size=(20, RANK))
    return {"layer": Factors(np.concatenate([common.a, a]), np.concatenate([common.b, b], axis=1))}


def crowd(attack: str) -> list[dict[str, Factors]]:
    rng = np.random.default_rng(0)
    common = Factors(rng.normal(size=(RANK, 30)), rng.normal(size=(20, RANK)))
    good = [honest(rng, common) for _ in range(HONEST)]
    goal = Factors(rng.normal(size=(RANK, 30)), 2 * rng.normal(size=(20, RANK)))
    if attack == "flip":
        bad = [{"layer": Factors(one["layer"].a, -10 * one["layer"].b)} for one in good[:BAD]]
    else:
        bad = [{"layer": Factors(goal.a, 50 * goal.b)} for _ in range(BAD)]
    return good + bad


def merged_error(adapters: list[dict[str, Factors]], rule: RobustRule | None) -> float:
    """Distance of the weighted mean to the honest mean, relative to it."""
    products = np.stack([one["layer"].b @ one["layer"].a for one in adapters])
    target = products[:HONEST].mean(axis=0)
    if rule is None:
        result = products.mean(axis=0)
    else:
        shared = shares(gram(adapters), [1] * len(adapters), rule)
        weights = np.array(shared.weight, float) / sum(shared.weight)
        result = np.einsum("i,i,ijk->jk", weights, np.array(shared.length) / UNIT, products)
    return float(np.linalg.norm(result - target) / np.linalg.norm(target))


@pytest.mark.parametrize("attack", ["flip", "collude"])
def test_each_rule_keeps_the_merge_near_the_honest_mean(attack: str) -> None:
    adapters = crowd(attack)
    plain = merged_error(adapters, None)
    clipped, krum, median = (merged_error(adapters, rule) for rule in RobustRule)
    assert plain > 2
    assert clipped < 0.7
    assert krum < 0.05
    assert median < 0.4


def test_multi_krum_leaves_out_exactly_the_bad() -> None:
    chosen = multi_krum(gram(crowd("collude")), BAD)
    assert chosen[:HONEST].all()
    assert not chosen[HONEST:].any()


def test_with_too_few_contributions_multi_krum_keeps_all() -> None:
    assert multi_krum(np.eye(4), 1).tolist() == [1, 1, 1, 1]


def test_the_geometric_median_of_equals_weighs_all_alike() -> None:
    assert geometric_median(np.ones((5, 5)), np.ones(5)).tolist() == [1, 1, 1, 1, 1]


def test_the_gram_matrix_is_that_of_the_products_whatever_the_scale_of_the_factors() -> None:
    adapters = crowd("flip")[:6]
    lopsided = [{"layer": Factors(one["layer"].a * 1e-3, one["layer"].b * 1e3)} for one in adapters]
    products = np.stack([(one["layer"].b @ one["layer"].a).ravel() for one in adapters])
    for matrix in (gram(adapters), gram(lopsided)):
        assert np.allclose(matrix, products @ products.T, rtol=1e-3, atol=1e-2)


def test_the_sketch_tells_honest_from_bad_as_the_whole_matrix_does() -> None:
    rng = np.random.default_rng(3)
    few = crowd("collude")
    layers = [
        {f"layer{i}": Factors(*(rng.permutation(m) for m in (one["layer"].a, one["layer"].b))) for i in range(30)}
        for one in few
    ]
    names = [f"c{i}" for i in range(len(layers))]
    whole, sketched = gram(layers), sketched_gram(layers, names)
    norms, guessed = np.sqrt(np.diag(whole)), np.sqrt(np.diag(sketched))
    assert np.abs(guessed / norms - 1).max() < 0.25


def test_the_sketch_follows_from_the_contributions_alone() -> None:
    adapters = crowd("flip")[:5]
    names = ["a", "b", "c", "d", "e"]
    first = sketched_gram(adapters, names)
    again = sketched_gram(adapters[::-1], names[::-1])[::-1, ::-1]
    assert (first == again).all()
    assert (first != sketched_gram(adapters, ["a", "b", "c", "d", "x"])).any()


def test_a_rule_that_leaves_nothing_says_so() -> None:
    with pytest.raises(BadInput, match="leaves no contribution"):
        shares(np.eye(2), [0, 0], RobustRule.NONE)
