"""What a picture says of being trained on is read from its original bytes; it can deny and never allow."""

import base64
import io
import json
import sys
import zlib
from collections.abc import Iterator

import pytest
from PIL import Image
from veto_parts import forbidden, picture, with_c2pa, with_chunk, with_xmp, xmp

from client.collection.dataset import Source, build_dataset
from client.collection.opener import Limits, PictureOpener
from client.collection.vetoes import require_no_veto
from client.media.resolver import Media
from contracts_abi.model import Token
from protocol.contribution import TokenUse
from protocol.errors import BadInput, NotAllowed

KINDS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "SVG")
PROHIBITED = (
    "DMI-PROHIBITED",
    "DMI-PROHIBITED-AIMLTRAINING",
    "DMI-PROHIBITED-GENAIMLTRAINING",
    "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING",
    "DMI-PROHIBITED-SEECONSTRAINT",
    "DMI-PROHIBITED-SEEEMBEDDEDRIGHTSEXPR",
    "DMI-PROHIBITED-SEELINKEDRIGHTSEXPR",
    "DMI-PROHIBITED-INSOMEFUTUREWAY",
    "DMI-SOMETHINGNEW",
)


@pytest.fixture(scope="module")
def opener() -> Iterator[PictureOpener]:
    with PictureOpener(Limits(seconds=10)) as opener:
        yield opener


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_without_a_word_about_it_is_opened(opener: PictureOpener, kind: str) -> None:
    assert opener.open(picture(kind), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_content_credentials_that_forbid_training_deny_in_every_format(opener: PictureOpener, kind: str) -> None:
    signed = with_c2pa(picture(kind), kind, forbidden())
    with pytest.raises(NotAllowed) as told:
        opener.open(signed, 32)
    assert told.value.message == (
        "The picture itself forbids training "
        "(C2PA: cawg.training-mining has cawg.ai_generative_training as notAllowed)."
    )


@pytest.mark.parametrize("kind", KINDS)
def test_content_credentials_that_allow_training_change_nothing(opener: PictureOpener, kind: str) -> None:
    signed = with_c2pa(picture(kind), kind, {**forbidden("allowed"), "cawg.data_mining": {"use": "allowed"}})
    assert opener.open(signed, 32).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("label", "entries"),
    [
        ("c2pa.training-mining", forbidden(entry="c2pa.ai_generative_training")),
        ("c2pa.training-mining", forbidden(entry="c2pa.data_mining")),
        ("cawg.training-mining", forbidden("constrained")),
        ("cawg.training-mining", forbidden("perhaps")),
        ("cawg.training-mining", forbidden(entry="cawg.ai_training")),
        ("cawg.training-mining", forbidden(entry="cawg.some_future_use")),
        ("cawg.training-mining", {**forbidden("allowed"), "cawg.ai_training": {"use": "notAllowed"}}),
        ("cawg.training-mining", {"cawg.ai_training": "notAllowed"}),
        ("cawg.training-mining", ["notAllowed"]),
    ],
)
def test_whatever_use_is_not_plainly_allowed_denies(opener: PictureOpener, label: str, entries: object) -> None:
    with pytest.raises(NotAllowed, match=f"C2PA: {label}"):
        opener.open(with_c2pa(picture("PNG"), "PNG", entries, label), 32)


def test_a_veto_needs_no_valid_signature(opener: PictureOpener) -> None:
    signed = with_c2pa(picture("PNG"), "PNG", forbidden())
    assert signed.count(b"signer") >= 1
    with pytest.raises(NotAllowed, match="forbids training"):
        opener.open(with_chunk(signed, b"tEXt", b"Comment\0changed since"), 32)
    with pytest.raises(NotAllowed, match="forbids training"):
        opener.open(signed.replace(b"signer", b"forger"), 32)


def test_content_credentials_that_cannot_be_read_are_not_passed_over(opener: PictureOpener) -> None:
    signed = with_c2pa(picture("PNG"), "PNG", forbidden())
    at = signed.index(b"jumdc2pa")
    with pytest.raises(BadInput, match="content credentials that cannot be read"):
        opener.open(signed[: at + 200] + b"\xff" * 400 + signed[at + 600 :], 32)


def test_without_the_library_only_pictures_with_content_credentials_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    require_no_veto(picture("PNG"), "PNG")
    with pytest.raises(BadInput, match="c2pa-python is not installed") as told:
        require_no_veto(with_marker(), "PNG")
    assert "pip install" in told.value.hint


def with_marker() -> bytes:
    return with_chunk(picture("PNG"), b"caBX", b"\0\0\0\x20jumb\0\0\0\x18jumdc2pa" + b"\0" * 16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["element", "resource", "attribute", "plain"])
def test_iptc_data_mining_denies_in_every_format_and_spelling(opener: PictureOpener, kind: str, form: str) -> None:
    with pytest.raises(NotAllowed, match=r"IPTC: plus:DataMining is DMI-PROHIBITED-AIMLTRAINING\)"):
        opener.open(with_xmp(picture(kind), kind, xmp("DMI-PROHIBITED-AIMLTRAINING", form)), 32)


@pytest.mark.parametrize("value", PROHIBITED)
def test_every_value_that_prohibits_denies_also_one_not_known_yet(opener: PictureOpener, value: str) -> None:
    with pytest.raises(NotAllowed, match=f"{value}\\)"):
        opener.open(with_xmp(picture("JPEG"), "JPEG", xmp(value)), 32)


@pytest.mark.parametrize("value", ["DMI-UNSPECIFIED", "DMI-ALLOWED"])
@pytest.mark.parametrize("kind", KINDS)
def test_iptc_data_mining_that_allows_changes_nothing(opener: PictureOpener, kind: str, value: str) -> None:
    assert opener.open(with_xmp(picture(kind), kind, xmp(value)), 32).shape == (32, 32, 3)


def test_a_permission_never_undoes_a_veto(opener: PictureOpener) -> None:
    both = with_xmp(with_xmp(picture("PNG"), "PNG", xmp("DMI-PROHIBITED")), "PNG", xmp("DMI-ALLOWED"))
    with pytest.raises(NotAllowed, match="IPTC"):
        opener.open(both, 32)
    with pytest.raises(NotAllowed, match="IPTC"):
        opener.open(with_c2pa(both, "PNG", forbidden("allowed")), 32)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0x\0" + zlib.compress(xmp("DMI-PROHIBITED"))),
        (
            b"zTXt",
            b"Raw profile type xmp\0\0" + zlib.compress(b"\nxmp\n   99\n" + xmp("DMI-PROHIBITED").hex().encode()),
        ),
        (b"tEXt", b"Raw profile type xmp\0\nxmp\n   99\n" + xmp("DMI-PROHIBITED").hex("\n", 36).encode()),
    ],
)
def test_a_veto_in_a_packed_text_of_a_png_is_found(opener: PictureOpener, name: bytes, body: bytes) -> None:
    with pytest.raises(NotAllowed, match="DMI-PROHIBITED"):
        opener.open(with_chunk(picture("PNG"), name, body), 32)


def test_a_text_that_unfolds_without_end_is_refused(opener: PictureOpener) -> None:
    bomb = b"Comment\0\0" + zlib.compress(b"\0" * (200 << 20), 9)
    with pytest.raises(BadInput, match="texts unfold to more than 16 MiB"):
        opener.open(with_chunk(picture("PNG"), b"zTXt", bomb), 32)


@pytest.mark.parametrize(
    "body",
    [b"", b"Comment", b"Comment\0", b"Comment\0\0nonsense", b"XML:com.adobe.xmp\0\1", b"Raw profile type x\0\0zz"],
)
def test_broken_texts_are_no_veto(opener: PictureOpener, body: bytes) -> None:
    for name in (b"zTXt", b"iTXt"):
        require_no_veto(with_chunk(picture("PNG"), name, body), "PNG")


def test_a_picture_inside_an_svg_has_a_say_too(opener: PictureOpener) -> None:
    for veto in (with_xmp(picture("PNG"), "PNG", xmp("DMI-PROHIBITED")), with_c2pa(picture("PNG"), "PNG", forbidden())):
        image = f'<image width="9" height="9" href="data:image/png;base64,{base64.b64encode(veto).decode()}"/>'
        with pytest.raises(NotAllowed, match="forbids training"):
            opener.open(picture("SVG").replace(b"</svg>", image.encode() + b"</svg>"), 32)


def token(number: int) -> Token:
    return Token(chain_id=31337, contract="0x" + "11" * 20, token_id=number)


def source(number: int, data: bytes) -> Source:
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    document = {"image": uri, "attributes": [{"trait_type": "head", "value": f"head {number}"}]}
    return Source(token(number), "data:application/json," + json.dumps(document), "collection")


def no_files(path: str, max_bytes: int) -> bytes:
    raise BadInput("No gateway is here.")


def test_the_original_bytes_count_not_what_is_left_after_saving_anew(opener: PictureOpener) -> None:
    original = with_xmp(with_c2pa(picture("PNG"), "PNG", forbidden()), "PNG", xmp("DMI-PROHIBITED"))
    anew = io.BytesIO()
    Image.open(io.BytesIO(original)).convert("RGB").save(anew, "JPEG")
    assert opener.open(anew.getvalue(), 32).shape == (32, 32, 3), "saving anew loses the veto"
    with pytest.raises(NotAllowed):
        build_dataset([source(1, original)], Media(no_files), 32)


def test_a_token_with_a_veto_is_left_out_with_the_reason_and_the_rest_go_on() -> None:
    vetoed = with_c2pa(picture("PNG"), "PNG", forbidden())
    dataset = build_dataset([source(1, picture("PNG")), source(2, vetoed)], Media(no_files), 32)
    (use,) = dataset.uses
    assert (use.token, use.no_veto_in) == (token(1), ("c2pa", "iptc"))
    (skipped,) = dataset.lock.skipped
    assert skipped.token == token(2)
    assert "The picture itself forbids training (C2PA: cawg.training-mining" in skipped.reason


def test_what_was_looked_for_is_signed_and_old_headers_keep_their_hash() -> None:
    old = TokenUse(token=token(1), media_sha256="ab" * 32, caption="a head", held_out=False)
    assert b"no_veto_in" not in old.canonical()
    new = old.model_copy(update={"no_veto_in": ("c2pa", "iptc", "tdmrep")})
    assert b'"no_veto_in":["c2pa","iptc","tdmrep"]' in new.canonical()
    assert TokenUse.model_validate_json(new.canonical()) == new
    assert TokenUse.model_validate_json(old.canonical()) == old
