"""A token's metadata and image: what is opened, what is refused, and why."""

import base64
import json
from urllib.parse import quote

import pytest

from client.collection.captions import caption
from client.collection.metadata import MAX_METADATA_BYTES, Metadata, read_metadata
from client.media.resolver import Media
from protocol.errors import BadInput

DOCUMENT = {
    "name": "Noun 7",
    "image": "ipfs://bafyimage/7.png",
    "attributes": [{"trait_type": "Head", "value": "Fence"}, {"trait_type": "background", "value": "cool"}],
}


def _no_files(path: str, max_bytes: int) -> bytes:
    raise AssertionError(f"nothing should be fetched, but {path} was")


no_files = Media(_no_files)


def base64_uri(document: object) -> str:
    return "data:application/json;base64," + base64.b64encode(json.dumps(document).encode()).decode()


def test_metadata_on_the_chain_is_read_from_base64_and_from_plain_text() -> None:
    expected = Metadata("noun 7", (("head", "fence"), ("background", "cool")), "ipfs://bafyimage/7.png", "cool")
    text = json.dumps(DOCUMENT)
    for uri in (base64_uri(DOCUMENT), f"data:application/json;utf8,{text}", f"data:application/json,{quote(text)}"):
        assert read_metadata(uri, no_files) == expected


def test_metadata_on_ipfs_is_fetched_by_its_path() -> None:
    asked = []

    def fetch(path: str, max_bytes: int) -> bytes:
        asked.append((path, max_bytes))
        return json.dumps(DOCUMENT).encode()

    read_metadata("ipfs://bafymeta/a%20b/7.json", Media(fetch))
    read_metadata("ipfs://ipfs/bafymeta/7.json", Media(fetch))
    assert asked == [("bafymeta/a b/7.json", MAX_METADATA_BYTES), ("bafymeta/7.json", MAX_METADATA_BYTES)]


@pytest.mark.parametrize("uri", ["https://nouns.example/7", "http://169.254.169.254/", "file:///etc/passwd", "ar://x"])
def test_what_is_not_opened_is_refused_with_the_reason(uri: str) -> None:
    with pytest.raises(BadInput, match="not opened"):
        read_metadata(uri, no_files)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "names no metadata"),
        ("data:application/json;base64", "without data"),
        ("data:application/json;base64,!!!!", "no base64"),
        ("data:application/json,nonsense", "no JSON"),
        ("data:application/json," + "[" * 100_000, "no JSON"),
        ("data:application/json,[]", "no JSON object"),
        ('data:application/json,{"name":"Noun 1"}', "names no image"),
    ],
)
def test_broken_metadata_is_told_in_a_sentence(uri: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        read_metadata(uri, no_files)


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(BadInput, match="at most 10"):
        no_files.read("data:,12345678901", 10, "The metadata")


def test_attributes_that_name_nothing_are_left_out() -> None:
    attributes = ["x", {"value": "rare"}, {"trait_type": "level", "value": 3}, {"trait_type": "bag", "value": {}}]
    metadata = read_metadata(base64_uri({**DOCUMENT, "attributes": attributes}), no_files)
    assert metadata.traits == (("level", "3"),)


def test_a_noun_is_captioned_in_the_words_of_its_base() -> None:
    traits = [("background", "cool"), ("body", "cold"), ("accessory", "axe"), ("head", "fence")]
    metadata = Metadata("noun 7", (*traits, ("glasses", "square black")), "", "")
    assert caption(metadata).text == "fence head, square black glasses, axe accessory, cold body, cool background"


def test_other_collections_keep_their_own_order() -> None:
    ape = caption(Metadata("ape 1", (("fur", "golden"), ("background", "blue")), "", ""))
    assert ape.text == "golden fur, blue background"


def test_a_token_without_traits_is_called_by_its_name() -> None:
    assert caption(Metadata("sunset 3", (), "", "")).text == "sunset 3"
    with pytest.raises(BadInput, match="neither traits nor a name"):
        caption(Metadata("", (), "", ""))
