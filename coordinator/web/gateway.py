"""The trustless gateway under ``/ipfs``, and the files of releases as a browser shows them.

The files without ``format`` are for people at this coordinator's page, who trust it; whoever does not asks for
CAR or raw blocks and hashes them.
"""

from collections.abc import Iterator
from itertools import chain
from mimetypes import guess_type

from flask import Blueprint, Response, request

from coordinator.releases.gateway import respond
from coordinator.web.service import service
from protocol.canonical import sha256
from protocol.unixfs import Cid

gateway = Blueprint("gateway", __name__, url_prefix="/ipfs")
_FORMATS = {"application/vnd.ipld.car": "car", "application/vnd.ipld.raw": "raw"}
_SHOWN = ("image/png", "application/json")


@gateway.get("/<cid>")
@gateway.get("/<cid>/<path:path>")
def content(cid: str, path: str = "") -> Response:
    form = request.args.get("format") or _accepted()
    if form is None and path:
        return _file(cid, path)
    status, content_type, body = respond(service().store, cid, path, form or "")
    return _immutable(Response(body, status, content_type=content_type), status, form or "")


def _file(cid_text: str, path: str) -> Response:
    """One file, by its path; types that a browser might run are shown as text or saved."""
    pieces = service().store.read(Cid.parse(cid_text), path)
    first = next(pieces, b"")  # what is not there or spoilt is told before the answer begins
    guessed, _ = guess_type(path)
    text = path.endswith((".md", ".txt"))
    kind = guessed if guessed in _SHOWN else "text/plain; charset=utf-8" if text else "application/octet-stream"
    body: Iterator[bytes] = chain([first], pieces)
    return _immutable(Response(body, 200, content_type=kind), 200, "")


def _accepted() -> str | None:
    accept = request.headers.get("Accept", "")
    return next((form for name, form in _FORMATS.items() if name in accept), None)


def _immutable(response: Response, status: int, form: str) -> Response:
    if status == 200:
        response.headers["Cache-Control"] = "public, max-age=29030400, immutable"
        response.set_etag(sha256(f"{request.full_path}\n{form}".encode()))
        response.make_conditional(request)
    return response
