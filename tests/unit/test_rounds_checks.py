"""What is taken as a contribution and what is refused, with which reason."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from round_parts import (
    PLAN,
    SHAPES,
    TRANSFORMER,
    adapter_for,
    contribution_for,
    signed,
    statistics_for,
    write_small_base,
)

from contracts_abi.model import Snapshot, Token
from coordinator.rounds.checks import Terms, adapted_layers, check
from protocol import node_key
from protocol.adapter import Factors
from protocol.contribution import Contribution, TrainTask
from protocol.errors import BadInput, ContributionRefused

TOKENS = tuple(Token(chain_id=1, contract="0x" + "11" * 20, token_id=n) for n in range(3))
TASK = TrainTask(
    round_id="round",
    dao="Nouns",
    plan=PLAN,
    policy_hash="a" * 64,
    base_hash="b" * 64,
    snapshot=Snapshot(chain_id=1, number=1, hash="0x" + "0" * 64, timestamp=0),
    tokens={"grant": TOKENS[:2]},
)
QUERY = f"{TRANSFORMER}.attn1.to_q"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    node_key.create(tmp_path / "node.pem")
    return tmp_path / "node.pem"


@pytest.fixture
def terms(tmp_path: Path, key: Path) -> Terms:
    return Terms(
        round_id="round",
        grant_id="grant",
        node_key=node_key.public_of(key),
        plan=PLAN,
        policy_hash="a" * 64,
        base_hash="b" * 64,
        admitted=frozenset(TOKENS[:2]),
        layers=adapted_layers(write_small_base(tmp_path / "base")),
    )


def test_the_layers_come_from_the_base_s_own_file(terms: Terms) -> None:
    assert set(terms.layers) == set(SHAPES)
    proj_in = terms.layers["mid_block.attentions.0.proj_in"]
    assert (proj_in.d_out, proj_in.d_in, proj_in.kernel) == (8, 8, (1, 1))


def test_a_base_without_a_unet_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no layer that can be adapted"):
        adapted_layers(tmp_path)


def test_a_contribution_that_fits_the_round_is_taken(terms: Terms, key: Path) -> None:
    check(contribution_for(TASK, "grant", key, seed=1), terms)


def test_a_contribution_changed_after_signing_is_refused(terms: Terms, key: Path) -> None:
    honest = contribution_for(TASK, "grant", key, seed=1)
    other = contribution_for(TASK, "grant", key, seed=2)
    with pytest.raises(ContributionRefused, match="not the one that was signed"):
        check(replace(honest, adapter=other.adapter), terms)
    with pytest.raises(ContributionRefused, match="signature"):
        check(replace(honest, signature=other.signature), terms)


@pytest.mark.parametrize(
    ("field", "value"),
    [("round_id", "other"), ("grant_id", "other"), ("plan_hash", "c" * 64), ("base_hash", "c" * 64)],
)
def test_a_contribution_for_something_else_is_refused(terms: Terms, key: Path, field: str, value: str) -> None:
    one = contribution_for(TASK, "grant", key, seed=1)
    header = one.header.model_copy(update={field: value})
    with pytest.raises(ContributionRefused, match="for another"):
        check(signed(replace(one, header=header), key), terms)


def test_a_token_that_the_round_does_not_admit_is_refused(terms: Terms, key: Path) -> None:
    with pytest.raises(ContributionRefused, match="not among the tokens"):
        check(contribution_for(TASK, "grant", key, seed=1, tokens=TOKENS), terms)


def test_a_token_named_twice_and_no_token_at_all_are_refused(terms: Terms, key: Path) -> None:
    with pytest.raises(ContributionRefused, match="twice"):
        check(contribution_for(TASK, "grant", key, seed=1, tokens=[TOKENS[0], TOKENS[0]]), terms)
    with pytest.raises(ContributionRefused, match="on no token"):
        check(contribution_for(TASK, "grant", key, seed=1, tokens=[]), terms)


def without_a_layer(key: Path) -> Contribution:
    return contribution_for(TASK, "grant", key, 1, adapter={k: v for k, v in adapter_for(1).items() if k != QUERY})


def with_another_shape(key: Path) -> Contribution:
    return contribution_for(TASK, "grant", key, 1, adapter=adapter_for(1, {**SHAPES, QUERY: (8, 9)}))


def with_a_rank_too_high(key: Path) -> Contribution:
    return contribution_for(TASK, "grant", key, 1, adapter=adapter_for(1, rank=3))


def with_no_change(key: Path) -> Contribution:
    zero = {name: Factors(f.a, np.zeros_like(f.b), f.kernel) for name, f in adapter_for(1).items()}
    return contribution_for(TASK, "grant", key, 1, adapter=zero)


def with_numbers_that_are_none(key: Path) -> Contribution:
    adapter = adapter_for(1)
    adapter[QUERY] = Factors(np.full_like(adapter[QUERY].a, np.nan), adapter[QUERY].b)
    return contribution_for(TASK, "grant", key, 1, adapter=adapter)


def without_text_statistics(key: Path) -> Contribution:
    return contribution_for(
        TASK, "grant", key, 1, statistics={k: v for k, v in statistics_for(1).items() if k != "text"}
    )


def with_narrow_statistics(key: Path) -> Contribution:
    narrow = statistics_for(1, {**SHAPES, f"{TRANSFORMER}.attn1.to_out.0": (8, 4)})
    return contribution_for(TASK, "grant", key, 1, statistics=narrow)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (without_a_layer, "lacks"),
        (with_another_shape, "other shapes"),
        (with_a_rank_too_high, "limit is 2"),
        (with_no_change, "changes nothing"),
        (with_numbers_that_are_none, "not finite"),
        (without_text_statistics, "groups are not the base's: text"),
        (with_narrow_statistics, "4 wide"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    terms: Terms, key: Path, make: Callable[[Path], Contribution], reason: str
) -> None:
    with pytest.raises(ContributionRefused, match=reason):
        check(make(key), terms)
