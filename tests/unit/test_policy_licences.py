"""What licences mean for training, how one is named, and under what a release may be published."""

import pytest
from pydantic import ValidationError

from contracts_abi.model import LicenceSignal, Token
from protocol.canonical import canonical
from protocol.errors import Conflict
from protocol.policy import (
    LICENCES,
    AdminRole,
    CollectionRule,
    CustomLicence,
    Duty,
    DutyKind,
    OnTransfer,
    Policy,
    ReleaseTerms,
    TokenRule,
    Verdict,
    judge,
    licence_named,
    licence_of,
    release_terms,
)

CONTRACT = "0x" + "11" * 20


def policy_with(*licences: str | None, **fields: object) -> Policy:
    """A policy with one collection for each licence."""
    return Policy(
        **{
            "dao": "Nouns",
            "purpose": "One shared model.",
            "chain_id": 1,
            "admin": AdminRole(contract=CONTRACT),
            "collections": tuple(
                CollectionRule(contract=f"0x{n:040x}", name=str(name), licence=name)
                for n, name in enumerate(licences, start=1)
            ),
            "accept_holder_warrant": True,
            **fields,
        }
    )


def verdicts(policy: Policy) -> list[Verdict]:
    """On the first token of every collection."""
    return [judge(policy, Token(chain_id=1, contract=rule.contract, token_id=1), None) for rule in policy.collections]


def published(*licences: str, **fields: object) -> ReleaseTerms:
    policy = policy_with(*licences, **fields)
    return release_terms(policy, [one for one in verdicts(policy) if one.allow])


def words(duties: tuple[Duty, ...]) -> list[str]:
    return [str(duty) for duty in duties]


# Profiles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "CBE-PERSONAL", "CBE-PERSONAL_NO_HATE", "NFT-LICENSE-2.0"],
)
def test_a_licence_that_forbids_changes_admits_nothing(name: str) -> None:
    [verdict] = verdicts(policy_with(name))
    assert not verdict.allow and "does not allow derivatives" in verdict.reason


@pytest.mark.parametrize("name", ["CBE-EXCLUSIVE", "CBE-COMMERCIAL", "CRYPTOPUNKS-2022", "BAYC", "AZUKI"])
def test_a_licence_of_the_holder_ends_with_a_sale_and_needs_the_warrant(name: str) -> None:
    [verdict] = verdicts(policy_with(name))
    assert verdict.allow and verdict.warrant
    assert verdict.on_transfer is OnTransfer.EXCLUDE
    assert not verdicts(policy_with(name, accept_holder_warrant=False))[0].allow


@pytest.mark.parametrize(
    ("name", "duties"),
    [
        ("CC0", []),
        ("CC-BY-4.0", ["attribution"]),
        ("CC-BY-SA-4.0", ["attribution", "share-alike: CC-BY-SA-4.0"]),
        ("CC-BY-NC-4.0", ["attribution", "non-commercial"]),
        ("CC-BY-NC-SA-4.0", ["attribution", "non-commercial", "share-alike: CC-BY-NC-SA-4.0"]),
    ],
)
def test_a_public_licence_stays_after_a_sale_and_its_duties_are_in_the_verdict(name: str, duties: list[str]) -> None:
    [verdict] = verdicts(policy_with(name))
    assert verdict.allow and verdict.on_transfer is OnTransfer.KEEP
    assert words(verdict.duties) == duties


def test_every_licence_says_where_its_text_is() -> None:
    assert all(licence.source.startswith("https://") for licence in LICENCES.values())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("http://www.creativecommons.org/licenses/by-nc-sa/4.0/deed.de", "CC-BY-NC-SA-4.0"),
        ("https://creativecommons.org/licenses/by-nd/4.0/legalcode", "CC-BY-ND-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0"),
        (" CC BY-SA 4.0 ", "CC-BY-SA-4.0"),
        ("cc-by-4.0", "CC-BY-4.0"),
        ("CC0-1.0", "CC0"),
        ("CBE-PERSONAL", "CBE-PERSONAL"),
    ],
)
def test_a_licence_is_known_by_its_url_and_its_usual_names(text: str, name: str) -> None:
    assert licence_named(text) == name
    assert name in LICENCES


@pytest.mark.parametrize(
    "text",
    [
        "https://creativecommons.org/licenses/by/3.0/",
        "https://creativecommons.org/licenses/by/4.0/?and=more",
        "https://creativecommons.org.evil.example/licenses/by/4.0/",
        "https://evil.example/https://creativecommons.org/licenses/by/4.0/",
        "not CC0",
        "CC-BY-4.0 AND CC0",
        "CC-BY-SA-ND-4.0",
        "",
    ],
)
def test_what_only_looks_like_a_licence_is_none(text: str) -> None:
    assert licence_named(text) not in LICENCES


def test_a_contract_cannot_talk_itself_into_another_licence() -> None:
    for name in ("COMMERCIAL AND CC0", "", "PUBLIC ", "CC0"):
        assert licence_of(LicenceSignal(name=name, uri="ar://x")) not in LICENCES


# Duties ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "parameter"),
    [
        ("attribution", DutyKind.ATTRIBUTION, ""),
        ("attribution: Nouns DAO", DutyKind.ATTRIBUTION, "Nouns DAO"),
        ("non-commercial", DutyKind.NON_COMMERCIAL, ""),
        ("share-alike: CC-BY-SA-4.0", DutyKind.SHARE_ALIKE, "CC-BY-SA-4.0"),
        ("no hate speech", DutyKind.CONTENT, "no hate speech"),
    ],
)
def test_a_duty_is_written_as_people_read_it(text: str, kind: DutyKind, parameter: str) -> None:
    duty = Duty.model_validate(text)
    assert (duty.kind, duty.parameter, str(duty)) == (kind, parameter, text)
    assert Duty.model_validate_json(duty.model_dump_json()) == duty


@pytest.mark.parametrize("text", ["share-alike", "non-commercial: mostly", "", "content:", "content: attribution"])
def test_a_duty_that_does_not_say_what_is_none(text: str) -> None:
    with pytest.raises(ValidationError):
        Duty.model_validate(text)


def test_a_verdict_from_before_duties_had_kinds_reads_back_with_the_same_bytes() -> None:
    before = {
        "token": f"eip155:1/erc721:{CONTRACT}/1",
        "collection": "Nouns",
        "allow": True,
        "rule": "on-chain licence",
        "licence": "CBE-COMMERCIAL_NO_HATE",
        "reason": "Admitted.",
        "evidence": "",
        "duties": ["no hate speech"],
        "on_transfer": "exclude",
        "warrant": True,
    }
    assert Verdict.model_validate_json(canonical(before)).canonical() == canonical(before)


# Releases -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("licences", "licence", "duties"),
    [
        (["CC0"], "CC0", []),
        (["CC0", "CC-BY-4.0"], "CC-BY-4.0", ["attribution"]),
        (["CC-BY-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0", ["attribution", "non-commercial"]),
        (["CC-BY-4.0", "CC0", "CC-BY-SA-4.0"], "CC-BY-SA-4.0", ["attribution", "share-alike: CC-BY-SA-4.0"]),
        (
            ["CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"],
            "CC-BY-NC-SA-4.0",
            ["attribution", "non-commercial", "share-alike: CC-BY-NC-SA-4.0"],
        ),
        (["CC0", "CBE-COMMERCIAL"], "CBE-COMMERCIAL", []),
        (["AZUKI", "CC-BY-4.0"], "AZUKI AND CC-BY-4.0", ["attribution", "no hate speech"]),
        (["BAYC", "CBE-EXCLUSIVE"], "BAYC AND CBE-EXCLUSIVE", []),
    ],
)
def test_a_release_is_under_the_strictest_of_what_went_in(licences: list[str], licence: str, duties: list[str]) -> None:
    for order in (licences, licences[::-1]):
        terms = published(*order)
        assert (terms.licence, words(terms.duties)) == (licence, duties)


@pytest.mark.parametrize(
    ("licences", "why"),
    [
        (["CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"], "CC-BY-NC-SA-4.0 and CC-BY-SA-4.0 each ask to be passed on as they are"),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0 asks for non-commercial, and CC-BY-SA-4.0 does not"),
        (["CC-BY-SA-4.0", "AZUKI"], "AZUKI asks for no hate speech"),
        (["CC-BY-SA-4.0", "BAYC"], "BAYC ends when a token is sold, and CC-BY-SA-4.0 is given for ever"),
    ],
)
def test_licences_that_cannot_be_passed_on_together_are_named(licences: list[str], why: str) -> None:
    with pytest.raises(Conflict, match=why):
        published(*licences)


def test_a_release_licence_in_the_policy_denies_what_does_not_fit_token_by_token() -> None:
    policy = policy_with("CC0", "CC-BY-SA-4.0", "CC-BY-NC-SA-4.0", "BAYC", release_licence="CC-BY-SA-4.0")
    found = verdicts(policy)
    assert [one.allow for one in found] == [True, True, False, False]
    assert found[2].reason.startswith("It cannot go into a release under CC-BY-SA-4.0: CC-BY-NC-SA-4.0 asks for")
    terms = release_terms(policy, [one for one in found if one.allow])
    assert terms.licence == "CC-BY-SA-4.0"


def test_a_stricter_word_on_sales_does_not_make_a_lasting_licence_end() -> None:
    policy = policy_with("CC-BY-SA-4.0", release_licence="CC-BY-SA-4.0")
    rule = policy.collections[0].model_copy(update={"on_transfer": OnTransfer.RETRAIN})
    [verdict] = verdicts(strict := policy.model_copy(update={"collections": (rule,)}))
    assert verdict.allow and verdict.on_transfer is OnTransfer.RETRAIN
    assert release_terms(strict, [verdict]).licence == "CC-BY-SA-4.0"


def test_the_dao_s_own_word_is_named_and_stands_beside_any_licence() -> None:
    token = Token(chain_id=1, contract=CONTRACT, token_id=1)
    policy = policy_with("CC-BY-4.0", tokens=(TokenRule(token=token, allow=True, reason="Ours."),))
    terms = release_terms(policy, [judge(policy, token, None), *verdicts(policy)])
    assert terms.licence == "CC-BY-4.0 AND the DAO's own word"


def test_a_share_alike_licence_of_the_dao_s_own_is_what_its_releases_are_under() -> None:
    own = CustomLicence(
        name="GUILD-1",
        derivatives=True,
        mentions_training=True,
        on_transfer="exclude",
        duties=("share-alike: GUILD-1", "no hate speech"),
        source="https://guild.example/licence",
        evidence_sha256="0" * 64,
    )
    terms = published("GUILD-1", "CC0", "AZUKI", licences=(own,))
    assert terms.licence == "GUILD-1"
    assert words(terms.duties) == ["no hate speech", "share-alike: GUILD-1"]
