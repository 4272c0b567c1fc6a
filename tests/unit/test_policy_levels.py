"""Which rule speaks for a token, what several rules come to, and what people must be before a yes counts."""

import pytest
from pydantic import ValidationError

from contracts_abi.model import LicenceSignal, Token
from protocol.policy import (
    AdminRole,
    CollectionRule,
    CustomLicence,
    Facts,
    Held,
    OnTransfer,
    Policy,
    Standing,
    TokenRule,
    explained,
    judge,
    within_cap,
)
from protocol.policy.membership import HoldsErc721

NOUNS, OTHERS, BADGE = "0x" + "11" * 20, "0x" + "22" * 20, "0x" + "33" * 20
NOUN = Token(chain_id=1, contract=NOUNS, token_id=1)
CC_BY = "https://creativecommons.org/licenses/by/4.0/"


def policy(*rules: CollectionRule, **fields: object) -> Policy:
    return Policy(
        **{
            "dao": "Nouns",
            "purpose": "One shared model.",
            "chain_id": 1,
            "admin": AdminRole(contract=NOUNS),
            "collections": rules or (CollectionRule(contract=NOUNS, name="Nouns"),),
            "accept_holder_warrant": True,
            **fields,
        }
    )


def nouns(**fields: object) -> CollectionRule:
    return CollectionRule(**{"contract": NOUNS, "name": "Nouns", **fields})


def cbe(name: str) -> LicenceSignal:
    return LicenceSignal(name=name, uri="ar://licence")


def by_token(uri: str, *, active: bool = True) -> LicenceSignal:
    return LicenceSignal(name="", uri=uri, standard="ERC-5218", active=active)


def own(allow: bool, reason: str = "So the DAO decided.", **fields: object) -> TokenRule:
    return TokenRule(**{"token": NOUN, "allow": allow, "reason": reason, **fields})


# Deny goes first within a level ---------------------------------------------------------------------------------------


def test_of_two_rules_for_a_token_the_no_decides_in_either_order() -> None:
    for rules in ((own(True), own(False, "The artist left.")), (own(False, "The artist left."), own(True))):
        verdict = judge(policy(nouns(licence="CC0"), tokens=rules), NOUN, None)
        assert (verdict.allow, verdict.rule, verdict.reason) == (False, "token", "The artist left.")


def test_of_two_rules_for_a_collection_the_no_decides_in_either_order() -> None:
    kept_out = nouns(allow=False, reason="The artists are asked first.")
    for rules in ((nouns(licence="CC0"), kept_out), (kept_out, nouns(licence="CC0"))):
        verdict = judge(policy(*rules), NOUN, None)
        assert (verdict.allow, verdict.rule) == (False, "collection")
        assert verdict.reason == "The artists are asked first."


def test_a_collection_under_a_licence_without_derivatives_is_out_whatever_another_rule_says() -> None:
    verdict = judge(policy(nouns(licence="CC0"), nouns(licence="CC-BY-ND-4.0")), NOUN, None)
    assert (verdict.allow, verdict.licence) == (False, "CC-BY-ND-4.0")


def test_of_two_licences_on_the_chain_the_one_that_forbids_decides() -> None:
    facts = Facts(signals=(cbe("PUBLIC"), by_token("https://creativecommons.org/licenses/by-nd/4.0/")))
    verdict = judge(policy(), NOUN, facts)
    assert (verdict.allow, verdict.rule, verdict.licence) == (False, "on-chain licence", "CC-BY-ND-4.0")


def test_a_higher_level_s_yes_goes_before_a_lower_level_s_no() -> None:
    assert judge(policy(nouns(licence="CC0")), NOUN, cbe("PERSONAL")).rule == "collection"
    kept_out = nouns(allow=False, reason="Not yet.")
    assert judge(policy(kept_out, tokens=(own(True),)), NOUN, cbe("PERSONAL")).rule == "token"


def test_several_yeses_at_one_level_add_up_to_the_strictest() -> None:
    verdict = judge(policy(nouns(licence="CC0"), nouns(licence="CBE-COMMERCIAL_NO_HATE")), NOUN, None)
    assert verdict.allow and verdict.warrant
    assert verdict.licence == "CC0 AND CBE-COMMERCIAL_NO_HATE"
    assert verdict.on_transfer is OnTransfer.EXCLUDE
    assert [str(duty) for duty in verdict.duties] == ["no hate speech"]


# Token and collection -------------------------------------------------------------------------------------------------


def test_a_token_s_own_licence_is_judged_like_any_other() -> None:
    rule = own(True, licence="CC-BY-NC-4.0", evidence="the artist's letter")
    verdict = judge(policy(tokens=(rule,)), NOUN, None)
    assert (verdict.allow, verdict.rule, verdict.licence) == (True, "token", "CC-BY-NC-4.0")
    assert [str(duty) for duty in verdict.duties] == ["attribution", "non-commercial"]
    assert not judge(policy(tokens=(own(True, licence="CC-BY-ND-4.0"),)), NOUN, None).allow


def test_a_policy_may_be_stricter_than_the_licence_when_a_token_is_sold_and_never_laxer() -> None:
    verdict = judge(policy(nouns(licence="CC0", on_transfer="retrain")), NOUN, None)
    assert verdict.on_transfer is OnTransfer.RETRAIN
    with pytest.raises(ValidationError, match="keep is laxer"):
        policy(nouns(licence="CBE-COMMERCIAL", on_transfer="keep"))
    declared = judge(policy(nouns(on_transfer="keep")), NOUN, cbe("COMMERCIAL"))
    assert declared.on_transfer is OnTransfer.EXCLUDE


def test_a_rule_adds_duties_and_says_whom_to_name() -> None:
    rule = nouns(licence="CC-BY-4.0", duties=("attribution: Nouns DAO", "no advertising"))
    assert [str(duty) for duty in judge(policy(rule), NOUN, None).duties] == [
        "attribution: Nouns DAO",
        "no advertising",
    ]


def test_a_custom_licence_is_judged_as_the_dao_reads_it_and_its_evidence_is_in_the_verdict() -> None:
    letter = CustomLicence(
        name="STUDIO-LETTER",
        derivatives=True,
        mentions_training=True,
        on_transfer="keep",
        source="https://studio.example/letter.pdf",
        evidence_sha256="0" * 64,
    )
    verdict = judge(policy(nouns(licence="STUDIO-LETTER"), licences=(letter,)), NOUN, None)
    assert verdict.allow and not verdict.warrant
    assert "https://studio.example/letter.pdf (SHA-256 000000" in verdict.evidence
    with pytest.raises(ValidationError, match="give the policy's own another name"):
        policy(licences=(letter.model_copy(update={"name": "CC0"}).model_dump(),))


# On chain and in the metadata -----------------------------------------------------------------------------------------


def test_a_licence_for_the_single_token_is_read_off_its_uri() -> None:
    verdict = judge(policy(), NOUN, by_token(CC_BY))
    assert (verdict.allow, verdict.rule, verdict.licence) == (True, "on-chain licence", "CC-BY-4.0")
    assert "ERC-5218" in verdict.evidence


def test_a_revoked_licence_denies() -> None:
    verdict = judge(policy(), NOUN, by_token(CC_BY, active=False))
    assert not verdict.allow and "revoked" in verdict.reason


def test_a_licence_uri_may_be_that_of_the_dao_s_own_reading() -> None:
    letter = CustomLicence(
        name="STUDIO-LETTER",
        derivatives=True,
        mentions_training=True,
        on_transfer="exclude",
        source="ipfs://letter",
        evidence_sha256="0" * 64,
    )
    assert judge(policy(licences=(letter,)), NOUN, by_token("ipfs://letter")).licence == "STUDIO-LETTER"
    assert not judge(policy(), NOUN, by_token("ipfs://letter")).allow


def test_metadata_count_only_where_the_policy_says_so_and_the_chain_is_silent() -> None:
    facts = Facts(metadata_licence=CC_BY)
    assert judge(policy(), NOUN, facts).rule == "default deny"
    asking = policy(nouns(metadata=True))
    verdict = judge(asking, NOUN, facts)
    assert (verdict.allow, verdict.rule, verdict.licence) == (True, "metadata", "CC-BY-4.0")
    declared = judge(asking, NOUN, Facts(metadata_licence=CC_BY, signals=(cbe("PERSONAL"),)))
    assert (declared.allow, declared.rule) == (False, "on-chain licence")


def test_a_duty_that_the_dao_does_not_want_denies() -> None:
    verdict = judge(policy(nouns(licence="CC-BY-NC-4.0"), refused_duties=("non-commercial",)), NOUN, None)
    assert not verdict.allow and "does not take on: non-commercial" in verdict.reason
    assert judge(policy(nouns(licence="CC-BY-4.0"), refused_duties=("non-commercial",)), NOUN, None).allow


# People ---------------------------------------------------------------------------------------------------------------


def test_only_a_member_s_token_is_allowed_and_unknown_is_no() -> None:
    asking = policy(nouns(licence="CC0"), membership=HoldsErc721(contract=BADGE, name="badges"))
    unknown = judge(asking, NOUN, None)
    assert (unknown.allow, unknown.rule) == (False, "membership")
    stranger = judge(asking, NOUN, Facts(standing=Standing(member=False, reason="It holds 0 of badges.")))
    assert (stranger.allow, stranger.rule) == (False, "membership")
    assert stranger.reason == "Its owner is no member: It holds 0 of badges."
    assert judge(asking, NOUN, Facts(standing=Standing(member=True, reason="It holds 1 of badges."))).allow


def test_being_a_member_allows_nothing_that_a_rule_denies() -> None:
    asking = policy(nouns(licence="CC-BY-ND-4.0"), membership=HoldsErc721(contract=BADGE))
    verdict = judge(asking, NOUN, Facts(standing=Standing(member=True, reason="It holds 1.")))
    assert (verdict.allow, verdict.rule) == (False, "collection")


@pytest.mark.parametrize(
    ("held", "allow"),
    [
        (None, False),
        (Held(blocks=10_000, seconds=29 * 86_400), False),
        (Held(blocks=99, seconds=31 * 86_400), False),
        (Held(blocks=100, seconds=30 * 86_400), True),
    ],
)
def test_a_token_counts_when_it_was_held_long_enough_in_days_and_in_blocks(held: Held | None, allow: bool) -> None:
    asking = policy(
        nouns(licence="CC0"), minimum_holding_days=30, minimum_holding_blocks=100, tokens=(own(True, "A gift."),)
    )
    for token in (NOUN, NOUN.model_copy(update={"token_id": 2})):
        verdict = judge(asking, token, Facts(held=held))
        assert verdict.allow is allow
        assert allow or verdict.rule == "holding time"


def test_of_one_member_only_so_many_tokens_are_taken_the_lowest_first() -> None:
    capped = policy(nouns(licence="CC0"), maximum_tokens=2, tokens=(own(False),))
    tokens = [Token(chain_id=1, contract=NOUNS, token_id=n) for n in (4, 2, 1, 3)]
    verdicts = within_cap(capped, [judge(capped, token, None) for token in tokens])
    assert [(one.token.token_id, one.allow, one.rule) for one in verdicts] == [
        (1, False, "token"),
        (2, True, "collection"),
        (3, True, "collection"),
        (4, False, "cap"),
    ]
    assert verdicts[-1].reason == "The policy takes at most 2 tokens of one member."


# Shares ---------------------------------------------------------------------------------------------------------------


def test_nobody_counts_for_more_than_the_policy_s_share() -> None:
    capped = policy(maximum_share_percent=40)
    weights = capped.shares_capped([10, 1, 1, 1])
    assert max(weights) / sum(weights) <= 0.4
    assert weights[0] > weights[1] == weights[2] == weights[3]
    assert capped.shares_capped([3, 3, 2]) == [3, 3, 2], "nobody is above it"
    assert capped.shares_capped([9, 1]) == [1, 1], "of two, one always is"
    assert policy().shares_capped([10, 1]) == [10, 1]
    assert capped.shares_capped([]) == []


# Why ------------------------------------------------------------------------------------------------------------------


def test_every_level_is_told_and_the_one_that_decides_is_marked() -> None:
    asking = policy(nouns(licence="CC0"), nouns(allow=False, reason="Not these."), tokens=(own(True, "A gift."),))
    levels = explained(asking, NOUN, None)
    assert [one.rule for one in levels] == ["token", "collection", "on-chain licence", "metadata"]
    assert [one.rule for one in levels if one.decides] == ["token"]
    assert {reason for _, reason in levels[1].says} >= {"Not these."}, "what would have been said is told too"
    assert levels[2].says == ()


def test_the_rules_about_people_have_the_last_word_of_those_that_decide() -> None:
    levels = explained(policy(nouns(licence="CC0"), minimum_holding_days=30), NOUN, Facts())
    assert [one.rule for one in levels if one.decides] == ["collection", "holding time"]
    assert levels[-1].says == ((False, "How long its owner has had it is not known."),)


def test_where_nothing_speaks_the_default_decides() -> None:
    levels = explained(policy(nouns()), NOUN, None)
    assert [one.rule for one in levels if one.decides] == ["default deny"]
    assert levels[-1].says[0][1] == judge(policy(nouns()), NOUN, None).reason
