"""A dataset's Croissant description has what the specification (1.0) asks for, and names every picture by hash."""

import json
from datetime import date

import pytest

from client.collection.croissant import croissant
from client.collection.dataset import DatasetLock, LockedToken
from contracts_abi.model import Token
from protocol.contribution import TokenUse

CONTRACT = "0x" + "11" * 20
KINDS = {"sc:Text": str, "sc:Float": float, "sc:Integer": int, "sc:Boolean": bool}


def locked(number: int, image: str) -> LockedToken:
    token = Token(chain_id=1, contract=CONTRACT, token_id=number)
    use = TokenUse(token=token, media_sha256=f"{number:02x}" * 32, caption="金 head", held_out=number == 1)
    return LockedToken(
        use=use,
        rule="collection",
        weight=1.5,
        height=512,
        width=448,
        metadata_uri="data:application/json",
        metadata_sha256="ab" * 32,
        image_uri=image,
    )


@pytest.fixture(scope="module")
def document() -> dict[str, object]:
    tokens = (locked(0, "ipfs://bafyimage/0.png"), locked(1, "data:image/svg+xml;base64"))
    described = croissant(
        DatasetLock(size=512, tokens=tokens, skipped=()),
        name="NFTs of 0x…",
        licences=["https://creativecommons.org/publicdomain/zero/1.0/"],
        creator="0x…",
        url="https://dao.example",
        published=date(2026, 11, 22),
    )
    return json.loads(json.dumps(described))


def test_it_has_every_property_that_the_specification_requires(document: dict[str, object]) -> None:
    assert document["@type"] == "sc:Dataset"
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    for name in ("@context", "name", "description", "license", "creator", "url", "datePublished", "version", "citeAs"):
        assert document[name], name
    assert document["datePublished"] == "2026-11-22"


def test_every_picture_is_a_file_object_with_its_hash_and_where_it_is(document: dict[str, object]) -> None:
    stored, on_chain = document["distribution"]
    for number, file in enumerate((stored, on_chain)):
        assert file["@type"] == "cr:FileObject"
        assert file["sha256"] == f"{number:02x}" * 32
        assert file["@id"] == file["name"] == f"eip155:1/erc721:{CONTRACT}/{number}"
        assert file["encodingFormat"]
    assert stored["contentUrl"] == "ipfs://bafyimage/0.png"
    assert on_chain["contentUrl"] == f"eip155:1/erc721:{CONTRACT}/1", "a picture on the chain is found by its token"


def test_the_records_have_the_fields_that_are_declared_in_the_types_that_are_declared(
    document: dict[str, object],
) -> None:
    (records,) = document["recordSet"]
    kinds = {field["@id"]: field["dataType"] for field in records["field"]}
    assert records["key"]["@id"] in kinds
    assert len(records["data"]) == 2
    for row in records["data"]:
        assert set(row) == set(kinds)
        assert all(type(value) is KINDS[kinds[name]] for name, value in row.items())
    assert records["data"][0]["tokens/caption"] == "金 head"


def test_every_short_name_is_declared_in_the_context(document: dict[str, object]) -> None:
    known = {*document["@context"], "@type", "@id", "@context"}
    plain_schema_org = {
        "name", "description", "license", "creator", "url", "datePublished", "version", "distribution",
        "contentUrl", "encodingFormat", "sha256",
    }  # fmt: skip

    def check(node: object) -> None:
        if isinstance(node, list):
            for one in node:
                check(one)
        if isinstance(node, dict):
            assert set(node) <= known | plain_schema_org
            for name, inner in node.items():
                if name not in ("data", "@context"):
                    check(inner)

    check(document)
