"""The member's own eye: which tokens, how much each counts, and the file that keeps it."""

from math import log2
from pathlib import Path

import pytest

from client.collection.choice import FARTHEST, Choice
from client.collection.choice_file import choice_from, load_choice, save_choice
from client.collection.rarity import rarity
from contracts_abi.model import Token
from protocol.errors import BadInput

CONTRACT, OTHER = "0x" + "ab" * 20, "0x" + "cd" * 20
FENCE, FOG = (("head", "fence"), ("body", "cold")), (("head", "fog"), ("body", "cold"))


def token(number: int, contract: str = CONTRACT) -> Token:
    return Token(chain_id=1, contract=contract, token_id=number)


@pytest.mark.parametrize(
    ("choice", "taken", "because"),
    [
        ({}, True, "nothing speaks against it"),
        ({"exclude": [f"{CONTRACT}:12"]}, False, "you left out 0xabab…abab:12"),
        ({"exclude": [CONTRACT.upper().replace("X", "x")]}, False, "you left out 0xABAB…ABAB"),
        ({"exclude": [f"{CONTRACT}:1-11", OTHER]}, True, "nothing speaks against it"),
        ({"include": [f"{CONTRACT}:10-20"]}, True, "you include 0xabab…abab:10-20"),
        ({"include": [f"eip155:1/erc721:{CONTRACT}/12"]}, True, "you include eip155:1/erc721:0xabab…abab/12"),
        ({"include": [f"eip155:5/erc721:{CONTRACT}/12"]}, False, "it is not among the tokens that you include"),
        ({"include": [CONTRACT], "exclude": [f"{CONTRACT}:12"]}, False, "you left out 0xabab…abab:12"),
        ({"where": ["Head = Fence"]}, True, "its traits are what you ask for"),
        ({"where": ["head=fog", "head=f*e"]}, True, "its traits are what you ask for"),
        ({"where": ["head=fog", "head=heart"]}, False, "its head is fence, and you ask for fog or heart"),
        ({"where": ["hat=fez"]}, False, "its hat is missing, and you ask for fez"),
        ({"where": ["head!=fence"]}, False, "you left out head fence"),
        ({"where": ["hat!=fez"]}, True, "its traits are what you ask for"),
    ],
)
def test_every_token_is_taken_or_left_out_for_a_reason(choice: dict[str, object], taken: bool, because: str) -> None:
    assert choice_from(choice).judge(token(12), FENCE) == (taken, because)


def test_weights_have_mean_one_and_say_what_they_are_made_of() -> None:
    tokens = [token(n) for n in range(4)]
    choice = choice_from({"stars": {CONTRACT: 2, f"{CONTRACT}:0": 5, f"{CONTRACT}:1": 3}})
    weights = choice.weights(tokens, {})
    assert sum(weight.value for weight in weights.values()) / 4 == pytest.approx(1)
    assert weights[tokens[0]].value == pytest.approx(2.5 * weights[tokens[2]].value, rel=1e-5)
    assert [weights[one].because for one in tokens[:3]] == ["5 stars", "", "2 stars"]


def test_with_no_wish_every_token_counts_one() -> None:
    assert {weight.value for weight in Choice().weights([token(n) for n in range(5)], {}).values()} == {1.0}
    assert Choice().weights([], {}) == {}


def test_long_held_tokens_count_more_where_it_is_known_how_long() -> None:
    tokens = [token(1), token(2), token(3)]
    choice = choice_from({"weigh_by": ["holding"]})
    weights = choice.weights(tokens, {}, {tokens[0]: 0.0, tokens[1]: 1022 * 86_400.0})
    assert weights[tokens[1]].value / weights[tokens[0]].value == pytest.approx(min(10, FARTHEST), rel=1e-4)
    assert weights[tokens[1]].because == "held 1022 days"
    assert weights[tokens[2]].because == ""


def test_rarity_is_information_over_the_collections_entropy() -> None:
    known = {n: (("head", "fence" if n else "fog"), ("body", "cold")) for n in range(4)}
    rare, common = log2(4), log2(4 / 3)
    entropy = (rare + 3 * common) / 4
    assert rarity(known) == pytest.approx({0: rare / entropy, **dict.fromkeys((1, 2, 3), common / entropy)})


def test_a_trait_that_only_one_token_lacks_makes_it_rare() -> None:
    known = {"bare": (), "a": (("hat", "fez"),), "b": (("hat", "fez"),)}
    assert rarity(known)["bare"] > rarity(known)["a"]


def test_where_all_are_alike_nobody_is_rare() -> None:
    assert rarity({1: FENCE, 2: FENCE}) == {1: 1.0, 2: 1.0}
    assert rarity({1: FENCE}) == {1: 1.0}
    assert rarity({}) == {}


def test_rarity_weighs_within_each_collection_and_among_all_known_tokens() -> None:
    rare, common, alone = token(1), token(2), token(1, OTHER)
    traits = {rare: FOG, common: FENCE, token(3): FENCE, token(4): FENCE, alone: FOG}
    weights = choice_from({"weigh_by": ["rarity"]}).weights([rare, common, alone], traits)
    assert weights[rare].value > weights[alone].value > weights[common].value
    assert weights[alone].because == "rarity 1.00"


def test_a_choice_that_was_kept_is_found_again(tmp_path: Path) -> None:
    assert load_choice(tmp_path) == Choice()
    choice = choice_from(
        {
            "include": [CONTRACT],
            "exclude": [f"{CONTRACT}:1-3"],
            "where": ["head!=fog", 'hat="quoted" \\ 木'],
            "weigh_by": ["rarity"],
            "stars": {f"{CONTRACT}:7": 5},
            "captions": {"all": {"trigger": "木 👩\u200d👧"}, OTHER: {"template": '"{phrases}"', "skip": ["hat"]}},
        }
    )
    save_choice(choice, tmp_path)
    assert load_choice(tmp_path) == choice
    save_choice(Choice(), tmp_path)
    assert load_choice(tmp_path) == Choice()


def test_each_collection_has_its_own_words_else_those_for_all() -> None:
    choice = choice_from({"captions": {"all": {"trigger": "all"}, CONTRACT: {"trigger": "own"}}})
    assert (choice.style_of(token(1).contract).trigger, choice.style_of(OTHER).trigger) == ("own", "all")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("include = ['noun 12']", "include.0 is wrong: 'noun 12' names no tokens; write 0x<contract>"),
        (f"include = ['{CONTRACT}:9-3']", "ends before it begins"),
        ("where = ['head']", "'head' is no filter; write trait=value"),
        (f"[stars]\n'{CONTRACT}:1' = 6", "less than or equal to 5"),
        ("weigh_by = ['price']", "weigh_by.0 is wrong"),
        ("[captions.nouns]\ntrigger = 'x'", "'nouns' is no collection"),
        ("[captions.all]\ntemplate = '{x}'", "in braces it may say"),
        ("stars = 5", "stars is wrong"),
        ("favourite = 1", "favourite is wrong"),
        ("include =", "choice.toml is no TOML"),
    ],
)
def test_a_file_that_is_no_choice_is_told_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "choice.toml").write_text(text)
    with pytest.raises(BadInput) as told:
        load_choice(tmp_path)
    assert said in told.value.message
    assert "choice.toml" in told.value.hint
