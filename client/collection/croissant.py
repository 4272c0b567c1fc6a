"""A dataset described in MLCommons Croissant 1.0 (JSON-LD), for catalogues and other people's loaders. Pure.

It names every picture where its token has it, by hash; the pictures themselves stay on the member's machine.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from client.collection.dataset import DatasetLock, LockedToken
from contracts_abi.model import Token

SPECIFICATION = "http://mlcommons.org/croissant/1.0"
CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification prints, so that nothing has to be fetched to read the document."""

_FIELDS = {
    "token": ("sc:Text", "The token's CAIP-19 name."),
    "caption": ("sc:Text", "What the picture is described with in training, made from the token's public traits."),
    "image_url": ("sc:Text", "Where the token has its picture."),
    "image_sha256": ("sc:Text", "SHA-256 of the picture's original bytes."),
    "metadata_url": ("sc:Text", "Where the token has its metadata."),
    "rule": ("sc:Text", "The rule of the DAO's policy that admits the token."),
    "weight": ("sc:Float", "How much it counts in the member's own training; one is the mean."),
    "height": ("sc:Integer", "Pixels, as trained on."),
    "width": ("sc:Integer", "Pixels, as trained on."),
    "held_out": ("sc:Boolean", "Kept from training, to score models with."),
}


def croissant(
    lock: DatasetLock, *, name: str, licences: Iterable[str], creator: str, url: str, published: date
) -> dict[str, Any]:
    """The document. ``licences`` are URLs or names, ``creator`` the wallet or its member, ``url`` the DAO's page."""
    return {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": SPECIFICATION,
        "name": name,
        "description": (
            f"{len(lock.tokens)} NFTs of one wallet, as they are trained on by Coterie at {lock.size} pixels. "
            "The pictures are public where the tokens have them, and are not part of this document."
        ),
        "license": sorted(set(licences)),
        "creator": {"@type": "sc:Person", "name": creator},
        "url": url,
        "datePublished": published.isoformat(),
        "version": "1.0.0",
        "isLiveDataset": False,
        "citeAs": f"dataset.lock.json, SHA-256 {lock.digest()}",
        "distribution": [_file(one) for one in lock.tokens],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "tokens",
                "name": "tokens",
                "key": {"@id": "tokens/token"},
                "field": [_field(name, *told) for name, told in _FIELDS.items()],
                "data": [{f"tokens/{field}": value for field, value in _row(one).items()} for one in lock.tokens],
            }
        ],
    }


def _field(name: str, kind: str, description: str) -> dict[str, Any]:
    identifier = f"tokens/{name}"
    return {"@type": "cr:Field", "@id": identifier, "name": identifier, "description": description, "dataType": kind}


def _file(one: LockedToken) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": str(one.use.token),
        "name": str(one.use.token),
        "contentUrl": _address(one.image_uri, one.use.token),
        "encodingFormat": "image/*",
        "sha256": one.use.media_sha256,
    }


def _row(one: LockedToken) -> dict[str, Any]:
    return {
        "token": str(one.use.token),
        "caption": one.use.caption,
        "image_url": _address(one.image_uri, one.use.token),
        "image_sha256": one.use.media_sha256,
        "metadata_url": _address(one.metadata_uri, one.use.token),
        "rule": one.rule,
        "weight": one.weight,
        "height": one.height,
        "width": one.width,
        "held_out": one.use.held_out,
    }


def _address(uri: str, token: Token) -> str:
    """What is on the chain itself is found by the token's name."""
    return str(token) if uri.startswith("data:") else uri
