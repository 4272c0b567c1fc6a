"""Who owns what in Nouns-on-anvil, and whether a member's client reads it as it is meant."""

import base64
import json
from collections import Counter

import numpy as np
import pytest
import rlp
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak

from bases.nouns_art import TRAITS, NounsArt, caption, svg
from client.collection import captions
from client.collection.dataset import held_out_of
from client.collection.metadata import read_image, read_metadata
from client.collection.picture import open_picture
from client.media.resolver import Media
from contracts_abi.model import Token
from deploy.demo.world import (
    ADMIN,
    BY_IPFS,
    CLEO,
    COMMERCIAL,
    DAN,
    HEADS_EACH,
    IMAGE_DATA,
    MEMBERS,
    NOUNS,
    PERSONAL,
    OwnedNoun,
    metadata,
    owned_nouns,
    write_policy,
)
from deploy.devchain.anvil import CHAIN_ID
from protocol.policy import judge


@pytest.fixture(scope="module")
def art() -> NounsArt:
    return NounsArt.load(IMAGE_DATA)


@pytest.fixture(scope="module")
def nouns(art: NounsArt) -> tuple[OwnedNoun, ...]:
    return owned_nouns(art, MEMBERS, HEADS_EACH)


def test_the_world_is_the_same_every_time(art: NounsArt, nouns: tuple[OwnedNoun, ...]) -> None:
    assert owned_nouns(art, MEMBERS, HEADS_EACH) == nouns


def test_every_member_owns_heads_that_the_base_never_saw_and_nobody_else_has(
    art: NounsArt, nouns: tuple[OwnedNoun, ...]
) -> None:
    own = [{n.seed.head for n in nouns if n.owner is member and n.collection != PERSONAL} for member in MEMBERS]
    assert [len(heads) for heads in own] == [HEADS_EACH] * 4
    assert len(set.union(*own)) == 4 * HEADS_EACH
    assert set.union(*own) <= set(art.held_out_heads)


def test_the_licensed_collections_are_in_the_right_hands(nouns: tuple[OwnedNoun, ...]) -> None:
    held = Counter((n.collection, n.owner) for n in nouns)
    assert {owner for collection, owner in held if collection == PERSONAL} == {CLEO}
    assert {owner for collection, owner in held if collection == COMMERCIAL} == {DAN}
    assert all(held[BY_IPFS, member] and held[NOUNS, member] for member in MEMBERS)
    assert 60 <= len(nouns) <= 70


def test_nobody_holds_both_nouns_of_a_head_out_so_that_every_head_is_trained_on(nouns: tuple[OwnedNoun, ...]) -> None:
    contracts = {name: created(nonce) for nonce, name in enumerate((NOUNS, BY_IPFS, PERSONAL, COMMERCIAL))}
    tokens = {
        Token(chain_id=CHAIN_ID, contract=contract, token_id=number): noun
        for name, contract in contracts.items()
        for number, noun in enumerate(n for n in nouns if n.collection == name)
    }
    for member in MEMBERS:
        own = [token for token, noun in tokens.items() if noun.owner is member and noun.collection != PERSONAL]
        trained = {tokens[token].seed.head for token in own if token not in held_out_of(own)}
        assert len(trained) == HEADS_EACH, f"{member.name} trains on {len(trained)} heads; choose another SEED"


def test_a_member_reads_back_the_picture_and_the_traits(art: NounsArt, nouns: tuple[OwnedNoun, ...]) -> None:
    noun = nouns[0]
    image = base64.b64encode(svg(art.compose(noun.seed)).encode()).decode()
    document = metadata(art, noun, 0, f"data:image/svg+xml;base64,{image}")
    read = read_metadata(f"data:application/json;base64,{base64.b64encode(document).decode()}", Media(no_files))
    picture = open_picture(read_image(read.image, Media(no_files)).data, 32, read.background)
    assert np.array_equal(picture, art.compose(noun.seed))
    assert captions.caption(read).text == caption(art.traits(noun.seed))
    assert [a["trait_type"] for a in json.loads(document)["attributes"]] == list(TRAITS)


def test_the_policy_leaves_licensed_collections_to_their_contracts() -> None:
    policy = write_policy({name: created(nonce) for nonce, name in enumerate((NOUNS, BY_IPFS, PERSONAL, COMMERCIAL))})
    allowed = {rule.name for rule in policy.collections if judge(policy, first_token(rule.contract), None).allow}
    assert allowed == {NOUNS, BY_IPFS}


def first_token(contract: str) -> Token:
    return Token(chain_id=CHAIN_ID, contract=contract, token_id=0)


def created(nonce: int) -> str:
    """The address of what the admin's wallet deploys with this nonce."""
    return to_checksum_address(keccak(rlp.encode([to_canonical_address(ADMIN.address), nonce]))[-20:])


def no_files(path: str, max_bytes: int) -> bytes:
    raise AssertionError(f"{path} was asked for")
