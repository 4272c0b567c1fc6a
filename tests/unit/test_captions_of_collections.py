"""A collection's words: template, order, what is not said, the trigger, and any script in the world."""

import json
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from bases.nouns_art import TRAITS
from bases.nouns_art import caption as base_caption
from client.collection.captions import MAX_CAPTION, CaptionStyle, caption
from client.collection.example import Example
from client.collection.metadata import Metadata, read_metadata
from client.collection.text import cut, one_line
from client.media.resolver import Media
from protocol.errors import BadInput

NOUN = {"head": "fence", "glasses": "square black", "accessory": "axe", "body": "cold", "background": "cool"}


def ape(*traits: tuple[str, str], name: str = "ape 7") -> Metadata:
    return Metadata(name, traits, "", "")


FUR_TRAIT = {"trait_type": "fur", "value": "golden"}
FUR, HAT = ("fur", "golden"), ("hat", "fez")


def no_files(path: str, max_bytes: int) -> bytes:
    raise AssertionError(path)


def read(document: object) -> Metadata:
    return read_metadata("data:application/json," + quote(json.dumps(document)), Media(no_files))


def test_nouns_speak_the_bases_words_in_the_bases_order() -> None:
    said = caption(Metadata("noun 7", tuple(reversed(list(NOUN.items()))), "", ""))
    assert said.text == base_caption(NOUN)
    assert said.phrases == tuple(f"{NOUN[trait]} {trait}" for trait in TRAITS)
    assert said.trigger == ""


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ({}, "golden fur, fez hat"),
        ({"trigger": "zxc"}, "zxc, golden fur, fez hat"),
        ({"template": "{trigger}, {name}: {phrases}", "trigger": "zxc"}, "zxc, ape 7: golden fur, fez hat"),
        ({"template": "a drawing of {phrases}."}, "a drawing of golden fur, fez hat."),
        ({"order": ("HAT",)}, "fez hat, golden fur"),
        ({"skip": ("fur",)}, "fez hat"),
        ({"skip": ("hat=fez", "fur=silver")}, "golden fur"),
        ({"skip": ("fur", "hat")}, "ape 7"),
        ({"template": "{trigger}", "trigger": "zxc"}, "zxc"),
    ],
)
def test_a_template_says_what_it_is_told(style: dict[str, object], text: str) -> None:
    assert caption(ape(FUR, HAT), CaptionStyle.model_validate(style)).text == text


@pytest.mark.parametrize(
    "template", ["{phrases", "{token}", "{phrases.__class__}", "{phrases!r}", "{phrases} {phrases}"]
)
def test_a_template_that_cannot_be_filled_in_is_refused(template: str) -> None:
    with pytest.raises(ValidationError, match=r"braces|once"):
        CaptionStyle(template=template)


def test_a_token_without_anything_to_say_can_still_be_given_a_word() -> None:
    with pytest.raises(BadInput, match="neither traits nor a name") as told:
        caption(ape(name=""))
    assert "choice.toml" in told.value.hint
    assert caption(ape(name=""), CaptionStyle(trigger="zxc")).text == "zxc"


@pytest.mark.parametrize("template", ["{phrases}", "{trigger}, {name}: {phrases}", "x {phrases} y"])
def test_phrases_can_be_left_out_and_the_rest_stays(template: str) -> None:
    said = caption(ape(FUR, HAT), CaptionStyle(template=template, trigger="zxc"))
    example = Example(None, said.text, said.phrases, said.trigger)  # type: ignore[arg-type]
    assert example.worded(example.phrases) == example.caption
    assert example.worded(["fez hat"]) == example.caption.replace("golden fur, ", "")
    assert example.worded([]).startswith(("zxc", "x"))
    assert "golden" not in example.worded([])


def test_without_a_trigger_everything_may_be_left_out() -> None:
    assert Example(None, "golden fur, fez hat", ("golden fur", "fez hat")).worded([]) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "word",
    [
        "金の毛",
        "ذهبي",
        "می\u200cخواهم",
        "👩\u200d👩\u200d👧",
        "👍🏽",
        "❤\ufe0f",
        "हिन्दी",
        "e\u0301",
        "ⲁⲃ",
        "\U0001fae8",
    ],
)
def test_any_script_comes_through_whole(word: str) -> None:
    said = caption(read({"name": word, "image": "x", "attributes": [{"trait_type": "fur", "value": word}]}))
    assert said.text in (f"{word} fur", "é fur")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a\x1b[31mb\x07", "a [31mb"),
        ("one\ntwo\tthree\u3000four", "one two three four"),
        ("safe\u202egpj.exe", "safegpj.exe"),
        ("\ud800half", "half"),
        ("soft\u00adware\u200b", "software"),
    ],
)
def test_what_steers_a_display_does_not_come_through(value: str, said: str) -> None:
    document = {"image": "x", "attributes": [{"trait_type": "t", "value": value}]}
    assert read(document).traits == (("t", said),)


def test_text_is_cut_between_letters_and_not_through_them() -> None:
    assert cut("ab👩\u200d👧", 4) == "ab"
    assert cut("xe\u0301", 2) == "x"
    assert one_line("a" * 50, 10) == "a" * 10
    assert 0 < len(one_line("a" + "\u0301" * 5000, 20)) <= 20


def test_a_caption_is_bounded_and_ends_with_a_whole_phrase() -> None:
    traits = tuple((f"trait {n}", "word " * 30 + "end") for n in range(100))
    said = caption(ape(*traits), CaptionStyle(template="{name} " + "x" * 180 + "{phrases}", trigger="t" * 200))
    assert len(said.text) <= MAX_CAPTION
    assert said.text.endswith(said.phrases[-1])


@pytest.mark.parametrize(
    ("document", "image"),
    [
        ({"image_url": "ipfs://a"}, "ipfs://a"),
        ({"image_data": "<svg/>"}, "data:image/svg+xml,%3Csvg/%3E"),
        ({"image_data": "data:image/png,x"}, "data:image/png,x"),
        ({"image": " ", "image_url": "ipfs://a"}, "ipfs://a"),
        ({"image_data": "<svg>\ud800</svg>"}, "data:image/svg+xml,%3Csvg%3E%3F%3C/svg%3E"),
    ],
)
def test_the_image_is_found_under_the_names_that_marketplaces_use(document: dict[str, str], image: str) -> None:
    assert read(document).image == image


def test_a_token_with_only_a_video_is_told_so() -> None:
    with pytest.raises(BadInput, match="an animation and no still image"):
        read({"name": "a", "animation_url": "ipfs://a.mp4"})


@pytest.mark.parametrize(
    "document",
    [
        {"attributes": {"Fur": "Golden"}},
        {"traits": [{"trait_type": "Fur", "value": "Golden"}]},
        {"attributes": [{"trait_type": "born", "value": 1e9, "display_type": "date"}, FUR_TRAIT]},
        {"attributes": [{"trait_type": "hat", "value": "None"}, FUR_TRAIT]},
    ],
)
def test_traits_are_read_as_collections_write_them(document: dict[str, object]) -> None:
    assert read({**document, "image": "x"}).traits == (("fur", "golden"),)
