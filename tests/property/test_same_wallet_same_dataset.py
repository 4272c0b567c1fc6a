"""The same wallet at the same snapshot gives the same dataset, byte for byte, whatever order it comes in."""

import base64
import json
from pathlib import Path
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bases.nouns_art import svg
from client.collection.choice import Choice
from client.collection.choice_file import choice_from
from client.collection.dataset import LOCK, PICTURES, DatasetLock, Source, build_dataset
from client.media.resolver import Media
from contracts_abi.model import Token
from protocol.canonical import sha256
from protocol.errors import BadInput, NotAllowed

CONTRACT = "0x" + "11" * 20
HEADS = ("fence", "fog", "heart")


def document(number: int) -> bytes:
    picture = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = "data:image/svg+xml;base64," + base64.b64encode(svg(picture).encode()).decode()
    attributes = [{"trait_type": "head", "value": HEADS[number % 3]}, {"trait_type": "number", "value": number}]
    return json.dumps({"name": f"Token {number}", "image": image, "attributes": attributes}).encode()


DOCUMENTS = {number: document(number) for number in range(8)}


def source(number: int) -> Source:
    return Source(Token(chain_id=1, contract=CONTRACT, token_id=number), f"ipfs://bafymeta/{number}", "collection")


def fetch(path: str, max_bytes: int) -> bytes:
    number = int(path.rpartition("/")[2])
    if number not in DOCUMENTS:
        raise BadInput("No gateway has it.", "Wait.")
    return DOCUMENTS[number]


choices = st.builds(
    lambda least, stars, rarity, where, trigger: choice_from(
        {
            "exclude": [f"{CONTRACT}:{least}"],
            "stars": {f"{CONTRACT}:{number}": count for number, count in stars.items()},
            "weigh_by": ["rarity"] * rarity,
            "where": where,
            "captions": {"all": {"trigger": trigger}},
        }
    ),
    st.integers(0, 9),
    st.dictionaries(st.integers(0, 9), st.integers(1, 5), max_size=4),
    st.booleans(),
    st.lists(st.sampled_from(["head=fence", "head=heart", "head!=fog"]), max_size=2),
    st.text(max_size=8),
)


@settings(max_examples=8, deadline=None)
@given(st.sets(st.integers(0, 9), min_size=1), choices, st.randoms(use_true_random=False))
def test_the_same_tokens_give_the_same_lock_and_pictures_in_any_order(
    numbers: set[int], choice: Choice, chance: Random
) -> None:
    sources = [source(number) for number in sorted(numbers)]
    shuffled = chance.sample(sources, len(sources))
    try:
        first = build_dataset(sources, Media(fetch), 32, choice=choice)
    except NotAllowed:
        return
    second = build_dataset(shuffled, Media(fetch), 32, choice=choice)
    assert first.lock.canonical() == second.lock.canonical()
    assert DatasetLock.model_validate_json(first.lock.canonical()) == first.lock
    for one, other in zip((*first.examples, *first.held_out), (*second.examples, *second.held_out), strict=True):
        assert np.array_equal(one.picture, other.picture)
        assert (one.caption, one.phrases, one.weight) == (other.caption, other.phrases, other.weight)
    weights = [locked.weight for locked in first.lock.tokens]
    assert abs(sum(weights) / len(weights) - 1) < 1e-5
    assert len(first.lock.tokens) + len(first.lock.skipped) == len(numbers)


def test_the_files_are_the_same_too_and_the_lock_says_where_everything_came_from(tmp_path: Path) -> None:
    sources = [source(number) for number in range(6)]
    for name in ("a", "b"):
        build_dataset(sources, Media(fetch), 32).save(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    lock = DatasetLock.model_validate_json((tmp_path / "a" / LOCK).read_bytes())
    one = lock.tokens[3]
    assert (one.metadata_uri, one.metadata_sha256) == ("ipfs://bafymeta/3", sha256(DOCUMENTS[3]))
    assert (one.image_uri, one.height, one.width, one.weight) == ("data:image/svg+xml;base64", 32, 32, 1.0)
    assert (lock.version, lock.size, (tmp_path / "a" / PICTURES).is_dir()) == (2, 32, True)
