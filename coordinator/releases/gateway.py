"""A trustless IPFS gateway over the store, without a web framework: status, content type and body for one request.

Spec: specs.ipfs.tech/http-gateways/trustless-gateway. Of its options this serves ``format=car`` with the default
``dag-scope=all``, and ``format=raw``; blocks come depth first, each once.
"""

from collections.abc import Iterator
from itertools import chain

from coordinator.releases.store import CarStore
from protocol.car import encode_car
from protocol.errors import BadInput, CoterieError
from protocol.unixfs import Block, Cid, subdag, trail

CAR_TYPE = "application/vnd.ipld.car; version=1; order=dfs; dups=n"
RAW_TYPE = "application/vnd.ipld.raw"
_TEXT_TYPE = "text/plain; charset=utf-8"

Response = tuple[int, str, Iterator[bytes] | bytes]


def respond(store: CarStore, cid_text: str, path: str, format: str) -> Response:  # noqa: A002 - the query's own name
    """Answer ``GET /ipfs/<cid_text>[/<path>]?format=<format>``: (status, content type, body).

    ``path`` is decoded and relative ("" for none). 400 for what is no CID, no path or no format that is served; 404
    for what the store does not hold; 502 for what the disk has spoilt. A CAR's body is an iterator: it raises
    where a block is spoilt further down, and the connection must then be broken off.
    """
    try:
        cid = Cid.parse(cid_text)
        if format == "raw":
            return 200, RAW_TYPE, _raw(store, cid, path)
        if format == "car":
            return 200, CAR_TYPE, _car(store, cid, path)
        raise BadInput("This gateway serves verifiable formats only.", "Ask with ?format=car or ?format=raw.")
    except CoterieError as error:
        return error.status, _TEXT_TYPE, _sentence(error)


def _raw(store: CarStore, cid: Cid, path: str) -> bytes:
    if path:
        raise BadInput("A raw block has no path below it.", "Ask with ?format=car.")
    return store.block(cid)


def _car(store: CarStore, cid: Cid, path: str) -> Iterator[bytes]:
    """The blocks from the root along the path, then everything below what it names."""
    # The last one is read here, not while streaming: after the first byte there is no way to say 404.
    blocks = [Block(step, store.block(step)) for step in trail(cid, path, store.block)]
    return encode_car(cid, _each_once(chain(blocks[:-1], subdag(blocks[-1].cid, store.block))))


def _each_once(blocks: Iterator[Block]) -> Iterator[Block]:
    seen: set[Cid] = set()
    for block in blocks:
        if block.cid not in seen:
            seen.add(block.cid)
            yield block


def _sentence(error: CoterieError) -> bytes:
    return f"{error}\n".encode()
