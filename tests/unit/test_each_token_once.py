"""One token, one member, one round: pure questions to ``each_token_once``."""

from contracts_abi.model import Token
from coordinator.eligibility.once import each_token_once
from protocol.grant import Grant
from protocol.policy import Verdict

ALICE, BOB, CAROL = ("0x" + str(n) * 40 for n in (1, 2, 3))
SHARED, OWN, UNITS = (
    Token.parse(f"eip155:1/{standard}:0x{'4' * 40}/{token_id}")
    for standard, token_id in (("erc721", 1), ("erc721", 2), ("erc1155", 3))
)


def offer(member: str, *tokens: Token, denied: tuple[Token, ...] = ()) -> tuple[Grant, list[Verdict]]:
    grant = Grant.model_construct(member=member, tokens=tokens)
    verdicts = [
        Verdict(token=t, collection="Nouns", allow=t not in denied, rule="collection", licence="CC0", reason="")
        for t in (*tokens, *(one for one in denied if one not in tokens))
    ]
    return grant, verdicts


def admitted(offers: list[tuple[Grant, list[Verdict]]]) -> list[set[Token]]:
    return [{v.token for v in verdicts if v.allow} for verdicts in each_token_once(offers)]


def test_the_first_grant_has_the_token_and_the_others_are_told_whose_it_is() -> None:
    offers = [offer(ALICE, SHARED, OWN), offer(BOB, SHARED), offer(CAROL, SHARED)]
    assert admitted(offers) == [{SHARED, OWN}, set(), set()]
    reasons = [verdict.reason for verdicts in each_token_once(offers)[1:] for verdict in verdicts]
    assert all(ALICE in reason for reason in reasons) and len(reasons) == 2


def test_whoever_is_denied_a_token_does_not_take_it() -> None:
    assert admitted([offer(ALICE, SHARED, denied=(SHARED,)), offer(BOB, SHARED)]) == [set(), {SHARED}]


def test_every_member_has_units_of_their_own() -> None:
    assert admitted([offer(ALICE, UNITS), offer(BOB, UNITS)]) == [{UNITS}, {UNITS}]


def test_a_token_that_was_not_granted_is_not_taken() -> None:
    grant, verdicts = offer(ALICE, OWN)
    _, more = offer(ALICE, SHARED)
    assert admitted([(grant, [*verdicts, *more]), offer(BOB, SHARED)]) == [{OWN, SHARED}, {SHARED}]
