"""Default deny, and a no that goes before every yes, whatever the rules and facts are."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from contracts_abi.model import LicenceSignal, Token
from protocol.policy import (
    LICENCES,
    AdminRole,
    CollectionRule,
    Duty,
    Facts,
    Held,
    OnTransfer,
    Policy,
    Standing,
    TokenRule,
    judge,
)
from protocol.policy.membership import AllOf, AnyOf, HoldsErc721, OnList, standing_of

NOUNS, OTHERS = "0x" + "11" * 20, "0x" + "22" * 20
TOKENS = [Token(chain_id=1, contract=contract, token_id=n) for contract in (NOUNS, OTHERS) for n in (1, 2)]
KNOWN = sorted(LICENCES)

licences = st.one_of(st.none(), st.sampled_from(KNOWN), st.sampled_from(["Nobody's licence", "CC-BY-3.0"]))
token_rules = st.builds(
    TokenRule,
    token=st.sampled_from(TOKENS),
    allow=st.booleans(),
    reason=st.just("The DAO's word."),
    licence=licences,
)
collection_rules = st.builds(
    CollectionRule,
    contract=st.sampled_from([NOUNS, OTHERS]),
    name=st.just("a collection"),
    licence=licences,
    allow=st.booleans(),
    reason=st.just("The DAO's word."),
    metadata=st.booleans(),
    on_transfer=st.sampled_from([None, OnTransfer.RETRAIN]),
)
policies = st.builds(
    Policy,
    dao=st.just("Nouns"),
    purpose=st.just("One shared model."),
    chain_id=st.just(1),
    admin=st.just(AdminRole(contract=NOUNS)),
    collections=st.lists(collection_rules, max_size=4).map(tuple),
    tokens=st.lists(token_rules, max_size=4).map(tuple),
    accept_holder_warrant=st.booleans(),
    minimum_holding_days=st.sampled_from([0, 30]),
    membership=st.sampled_from([None, HoldsErc721(contract=OTHERS)]),
    refused_duties=st.sampled_from([(), ("non-commercial",)]),
    release_licence=st.sampled_from([None, "CC-BY-NC-4.0"]),
)
signals = st.one_of(
    st.builds(LicenceSignal, name=st.sampled_from(["PUBLIC", "COMMERCIAL", "PERSONAL", "?"]), uri=st.just("ar://x")),
    st.builds(
        LicenceSignal,
        name=st.just(""),
        uri=st.sampled_from(["https://creativecommons.org/licenses/by-nd/4.0/", "CC-BY-4.0", "ipfs://x"]),
        standard=st.just("ERC-5218"),
        active=st.booleans(),
    ),
)
facts = st.builds(
    Facts,
    signals=st.lists(signals, max_size=2).map(tuple),
    metadata_licence=st.sampled_from([None, "CC0", "CC-BY-ND-4.0", "all rights reserved"]),
    held=st.sampled_from([None, Held(blocks=1, seconds=0), Held(blocks=10**6, seconds=10**8)]),
    standing=st.sampled_from([None, Standing(member=False, reason="no"), Standing(member=True, reason="yes")]),
)
tokens = st.sampled_from(TOKENS)


@given(policies, tokens, facts)
def test_nothing_is_allowed_but_for_a_reason_that_the_policy_gives(policy: Policy, token: Token, known: Facts) -> None:
    verdict = judge(policy, token, known)
    assert verdict.reason
    if not verdict.allow:
        assert not verdict.warrant
        return
    named = any(rule.contract == token.contract for rule in policy.collections)
    assert named or any(rule.token == token and rule.allow for rule in policy.tokens)
    assert verdict.rule in ("token", "collection", "on-chain licence", "metadata")
    for name in (verdict.licence or "").split(" AND ") if verdict.licence else ():
        licence = LICENCES[name]
        assert licence.derivatives
        assert licence.mentions_training or (policy.accept_holder_warrant and verdict.warrant)
        assert verdict.on_transfer.strictness >= licence.on_transfer.strictness
    assert policy.membership is None or (known.standing and known.standing.member)
    assert not policy.minimum_holding_days or (known.held and known.held.seconds >= 30 * 86_400)
    assert not {duty.kind for duty in verdict.duties} & set(policy.refused_duties) or verdict.rule == "token"


@given(policies, tokens, facts)
def test_a_no_at_a_level_wins_wherever_it_stands(policy: Policy, token: Token, known: Facts) -> None:
    no = TokenRule(token=token, allow=False, reason="The artist asked us not to.")
    for at in range(len(policy.tokens) + 1):
        with_no = policy.model_copy(update={"tokens": (*policy.tokens[:at], no, *policy.tokens[at:])})
        verdict = judge(with_no, token, known)
        assert (verdict.allow, verdict.rule) == (False, "token")
    if any(rule.token == token for rule in policy.tokens):
        return
    out = CollectionRule(contract=token.contract, name="a collection", allow=False, reason="Not yet.")
    for at in range(len(policy.collections) + 1):
        rules = (*policy.collections[:at], out, *policy.collections[at:])
        verdict = judge(policy.model_copy(update={"collections": rules}), token, known)
        assert (verdict.allow, verdict.rule) == (False, "collection")


@given(policies, tokens, facts, st.randoms(use_true_random=False))
def test_the_order_of_rules_and_signals_never_changes_what_is_allowed(
    policy: Policy, token: Token, known: Facts, dice: random.Random
) -> None:
    shuffled = policy.model_copy(
        update={
            name: tuple(dice.sample(rules, len(rules)))
            for name in ("tokens", "collections")
            if (rules := getattr(policy, name))
        }
    )
    turned = known.model_copy(update={"signals": known.signals[::-1]})
    one, other = judge(policy, token, known), judge(shuffled, token, turned)
    assert (one.allow, one.rule, one.on_transfer if one.allow else None) == (
        other.allow,
        other.rule,
        other.on_transfer if other.allow else None,
    )


@given(policies, tokens)
def test_knowing_nothing_never_allows_more(policy: Policy, token: Token) -> None:
    if judge(policy, token, None).allow:
        everything = Facts(held=Held(blocks=10**6, seconds=10**8), standing=Standing(member=True, reason="yes"))
        assert judge(policy, token, everything).allow


@given(st.lists(st.integers(1, 500), max_size=12), st.integers(1, 100))
def test_a_capped_share_holds_and_keeps_the_order_of_weights(weights: list[int], percent: int) -> None:
    policy = Policy.model_construct(maximum_share_percent=percent)
    capped = policy.shares_capped(weights)
    assert len(capped) == len(weights) and all(weight >= 1 for weight in capped)
    if len(weights) * percent > 100:
        assert all(100 * weight <= percent * sum(capped) for weight in capped)
    for (a, x), (b, y) in pairwise(zip(weights, capped, strict=True)):
        assert (a <= b) == (x <= y) or x == y


@given(st.text(max_size=40).filter(str.strip))
def test_every_text_is_a_duty_that_reads_back_or_none(text: str) -> None:
    try:
        duty = Duty.model_validate(text)
    except ValueError:
        return
    assert Duty.model_validate(str(duty)) == duty


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_all_needs_every_one_and_any_needs_one(wanted: list[int], held: list[int]) -> None:
    parts = tuple(HoldsErc721(contract=f"0x{n + 1:040x}", at_least=need) for n, need in enumerate(wanted))
    holding = {part: held[n] for n, part in enumerate(parts)}
    met = [held[n] >= need for n, need in enumerate(wanted)]
    assert standing_of(AllOf(all=parts), (), holding).member is all(met)
    assert standing_of(AnyOf(any=parts), (), holding).member is any(met)
    assert not standing_of(AllOf(all=(*parts, OnList(addresses=(NOUNS,)))), (OTHERS,), holding).member
    assert not standing_of(AnyOf(any=parts), (), {}).member, "no answer is no"
