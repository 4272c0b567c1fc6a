"""From tokens to a dataset: the held-out share, skipped tokens, and the lock file."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from bases.nouns_art import svg
from client.collection.choice_file import choice_from
from client.collection.dataset import LOCK, PICTURES, DatasetLock, Source, build_dataset, held_out_of, load_held_out
from client.media.resolver import Media
from contracts_abi.model import Token
from protocol.canonical import sha256
from protocol.errors import BadInput, NotAllowed

CONTRACT = "0x" + "11" * 20


def token(number: int) -> Token:
    return Token(chain_id=31337, contract=CONTRACT, token_id=number)


def noun(number: int) -> Source:
    picture = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = "data:image/svg+xml;base64," + base64.b64encode(svg(picture).encode()).decode()
    document = {"image": image, "attributes": [{"trait_type": "head", "value": f"head {number}"}]}
    uri = "data:application/json;base64," + base64.b64encode(json.dumps(document).encode()).decode()
    return Source(token(number), uri, "collection")


def _no_files(path: str, max_bytes: int) -> bytes:
    raise BadInput("No gateway is here.")


no_files = Media(_no_files)


def test_a_fifth_is_held_out_and_always_the_same() -> None:
    tokens = [token(n) for n in range(20)]
    assert len(held_out_of(tokens)) == 4
    assert held_out_of(tokens) == held_out_of(reversed(tokens))


@pytest.mark.parametrize(("count", "kept"), [(1, 0), (3, 0), (4, 1), (5, 1), (16, 3)])
def test_few_tokens_hold_out_one_and_very_few_none(count: int, kept: int) -> None:
    assert len(held_out_of(token(n) for n in range(count))) == kept


def test_the_lock_names_every_token_by_hash_and_caption() -> None:
    source = noun(0)
    dataset = build_dataset([source], no_files, 32)
    (locked,) = dataset.lock.tokens
    image = json.loads(base64.b64decode(source.uri.partition(",")[2]))["image"]
    assert locked.use.media_sha256 == sha256(base64.b64decode(image.partition(",")[2]))
    assert (locked.use.token, locked.use.caption, locked.rule) == (token(0), "head 0 head", "collection")
    assert dataset.examples[0].caption == "head 0 head"


def test_a_bad_token_is_skipped_with_its_reason_and_the_rest_go_on() -> None:
    bad = Source(token(9), "https://nouns.example/9", "collection")
    seen: list[tuple[int, int]] = []
    dataset = build_dataset([noun(0), bad, noun(1)], no_files, 32, lambda done, of: seen.append((done, of)))
    assert [use.token for use in dataset.uses] == [token(0), token(1)]
    assert [(s.token, "web server" in s.reason) for s in dataset.lock.skipped] == [(token(9), True)]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_without_a_single_usable_token_there_is_no_dataset() -> None:
    with pytest.raises(NotAllowed, match="None of the 1 tokens"):
        build_dataset([Source(token(9), "ipfs://bafy/9", "collection")], no_files, 32)


def test_held_out_pictures_are_found_again_from_the_folder(tmp_path: Path) -> None:
    dataset = build_dataset([noun(n) for n in range(10)], no_files, 32)
    dataset.save(tmp_path)
    assert len(dataset.examples) == 8
    again = load_held_out(tmp_path)
    assert [example.caption for example in again] == [example.caption for example in dataset.held_out]
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(again, dataset.held_out, strict=True))
    assert DatasetLock.model_validate_json((tmp_path / LOCK).read_bytes()) == dataset.lock


def test_one_single_picture_is_trained_on_and_none_is_held_out() -> None:
    dataset = build_dataset([noun(0)], no_files, 32)
    assert (len(dataset.examples), len(dataset.held_out)) == (1, 0)


def test_no_tokens_at_all_is_told_with_what_to_do() -> None:
    with pytest.raises(NotAllowed, match="None of the 0 tokens") as told:
        build_dataset([], no_files, 32)
    assert "join with other tokens" in told.value.hint


def test_what_the_member_left_out_is_in_the_lock_with_the_reason() -> None:
    choice = choice_from({"exclude": [f"{CONTRACT}:1"], "where": ["head!=head 2"]})
    dataset = build_dataset([noun(n) for n in range(4)], no_files, 32, choice=choice)
    assert [(s.token.token_id, s.reason) for s in dataset.lock.skipped] == [
        (1, "you left out 0x1111…1111:1"),
        (2, "you left out head head 2"),
    ]


def test_a_choice_that_leaves_nothing_is_told_by_its_first_reason() -> None:
    with pytest.raises(NotAllowed, match="you left out 0x1111") as told:
        build_dataset([noun(0)], no_files, 32, choice=choice_from({"exclude": [CONTRACT]}))
    assert "choice.toml" in told.value.hint


def test_rarity_counts_tokens_that_are_left_out_too() -> None:
    uri = 'data:application/json,{"image":"data:,","attributes":[{"trait_type":"head","value":"head 0"}]}'
    broken = [Source(token(n), uri, "collection") for n in (10, 11, 12)]
    choice = choice_from({"weigh_by": ["rarity"]})
    dataset = build_dataset([noun(0), noun(1), *broken], no_files, 32, choice=choice)
    common, rare = dataset.lock.tokens
    assert rare.weight > common.weight
    assert [example.weight for example in dataset.examples] == [common.weight, rare.weight]


def test_examples_say_which_words_may_be_left_out() -> None:
    choice = choice_from({"captions": {"all": {"trigger": "zxc", "template": "{trigger}: {phrases}"}}})
    (example,) = build_dataset([noun(7)], no_files, 32, choice=choice).examples
    assert (example.caption, example.phrases, example.trigger) == ("zxc: head 7 head", ("head 7 head",), "zxc")


@pytest.mark.parametrize("full", [LOCK, f"{PICTURES}/{CONTRACT}-0.png"])
def test_a_full_disk_is_told_with_how_much_room_is_needed(tmp_path: Path, full: str) -> None:
    (tmp_path / PICTURES).mkdir()
    (tmp_path / full).symlink_to("/dev/full")
    with pytest.raises(BadInput, match="The disk is full") as told:
        build_dataset([noun(0)], no_files, 32).save(tmp_path)
    assert "Free at least 1 MB" in told.value.hint


def test_a_lock_of_the_first_version_is_still_read(tmp_path: Path) -> None:
    dataset = build_dataset([noun(n) for n in range(5)], no_files, 32)
    dataset.save(tmp_path)
    tokens = [{"use": locked.use.model_dump(mode="json"), "rule": locked.rule} for locked in dataset.lock.tokens]
    (tmp_path / LOCK).write_text(json.dumps({"version": 1, "size": 32, "tokens": tokens, "skipped": []}))
    assert len(load_held_out(tmp_path)) == 1
