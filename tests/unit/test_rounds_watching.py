"""What a sale does to a contribution: pure questions to ``lapsed``."""

from contracts_abi.model import Snapshot, Token
from contracts_abi.ownership.holding import Holding
from contracts_abi.ownership.question import Claim
from coordinator.watching.lapses import Watched, lapsed
from protocol.policy import OnTransfer, Verdict

ALICE, BOB = "0x" + "11" * 20, "0x" + "22" * 20
HELD = Token(chain_id=1, contract="0x" + "33" * 20, token_id=7)
FREE = Token(chain_id=1, contract="0x" + "44" * 20, token_id=8)
NOW = Snapshot(chain_id=1, number=100, hash="0x" + "0" * 64, timestamp=1)


def verdict(token: Token, on_transfer: OnTransfer, licence: str) -> Verdict:
    return Verdict(
        token=token,
        collection="Commercial Nouns",
        allow=True,
        rule="on-chain licence",
        licence=licence,
        reason="",
        on_transfer=on_transfer,
    )


def owned_by(owner: str | None, token: Token = HELD) -> dict[Claim, Holding]:
    return {Claim(token, ALICE): Holding(owner == ALICE, owner)}


CONTRIBUTION = Watched(
    contribution_id="c1",
    member=ALICE,
    since=50,
    verdicts=(verdict(HELD, OnTransfer.EXCLUDE, "CBE-COMMERCIAL"), verdict(FREE, OnTransfer.KEEP, "CC0")),
)


def test_a_contribution_whose_tokens_stay_is_live() -> None:
    assert lapsed([CONTRIBUTION], owned_by(ALICE), NOW) == []


def test_a_token_that_moved_ends_the_contribution_and_the_reason_tells_all() -> None:
    [lapse] = lapsed([CONTRIBUTION], owned_by(BOB), NOW)
    assert (lapse.contribution_id, lapse.token) == ("c1", HELD)
    for word in ("Token 7", "Commercial Nouns", ALICE, BOB, "block 100", "CBE-COMMERCIAL"):
        assert word in lapse.reason


def test_a_burned_token_ends_the_contribution() -> None:
    [lapse] = lapsed([CONTRIBUTION], owned_by(None), NOW)
    assert "burned" in lapse.reason


def test_a_policy_that_is_stricter_than_the_licence_asks_the_member_to_train_again() -> None:
    strict = Watched("c1", ALICE, 50, (verdict(FREE, OnTransfer.RETRAIN, "CC0"),))
    [lapse] = lapsed([strict], owned_by(BOB, FREE), NOW)
    assert "CC0 would let it stay, and the policy does not." in lapse.reason
    assert lapse.reason.endswith("The member is asked to train again on the rest.")


def test_a_token_whose_licence_stays_after_a_sale_is_not_asked_for() -> None:
    assert [v.token for v in CONTRIBUTION.bound] == [HELD]


def test_a_chain_node_that_lags_behind_the_round_ends_nothing() -> None:
    late = Snapshot(chain_id=1, number=49, hash="0x" + "0" * 64, timestamp=1)
    assert lapsed([CONTRIBUTION], owned_by(BOB), late) == []


def test_the_last_unit_of_an_erc1155_id_ends_the_contribution() -> None:
    unit = HELD.model_copy(update={"standard": "erc1155"})
    watched = Watched("c2", ALICE, 50, (verdict(unit, OnTransfer.EXCLUDE, "CBE-COMMERCIAL"),))
    [lapse] = lapsed([watched], owned_by(None, unit), NOW)
    assert "to others by block 100" in lapse.reason
