"""An act that is asked for twice is done once: the ``Idempotency-Key`` header.

As draft-ietf-httpapi-idempotency-key-header-07 has it: the same key with the same request gets the first answer
again, with another request it is refused, and while the first is being done it is told to wait. Only successes are
kept: what was refused did nothing, and may be asked again.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar, get_type_hints

from flask import g, request
from pydantic import BaseModel
from sqlalchemy import delete

from coordinator.database import AnswerRow
from coordinator.web.service import Service, service
from protocol.canonical import sha256
from protocol.errors import BadInput, Conflict, KeyReused

View = TypeVar("View", bound=Callable[..., BaseModel])
HEADER = "Idempotency-Key"
MAX_KEY = 255
KEPT_SECONDS = 24 * 3600
UNDER_WAY_SECONDS = 120
"""After this, whoever did it is taken to have died: longer than the server lets a request last."""


def once(view: View) -> View:
    """A view that is not done again for a request that brings the same key. ``Routes`` makes one of what is keyed."""
    answer = get_type_hints(view)["return"]

    @wraps(view)
    def guarded(**given: BaseModel) -> BaseModel:
        key = request.headers.get(HEADER)
        if key is None:
            return view(**given)
        here, name = service(), _name(key)
        if (known := _claim(here, name)) is not None:
            return _read(answer, known)
        try:
            done = view(**given)
        except BaseException:
            _forget(here, name)
            raise
        _keep(here, name, done)
        return done

    return guarded  # type: ignore[return-value]


def _read(answer: type[BaseModel], known: str) -> BaseModel:
    return answer.model_validate_json(known)


def _name(key: str) -> str:
    """What the key is kept by: each route and each signed-in wallet has keys of its own."""
    if not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
        raise BadInput(f"{HEADER} is a text of 1 to {MAX_KEY} printable ASCII characters.", "Send a random one.")
    return sha256("\n".join((request.method, request.path, str(g.get("wallet", "")), key)).encode())


def _claim(here: Service, name: str) -> str | None:
    """The answer that the first request with this key got; None where this is the first.

    Raises:
        KeyReused: the first was another request.
        Conflict: it is still being done.
    """
    asked = sha256(request.get_data())
    with here.database.writing() as session:
        session.execute(delete(AnswerRow).where(AnswerRow.at < here.now() - KEPT_SECONDS))
        row = session.get(AnswerRow, name)
        if row is None:
            session.add(AnswerRow(name=name, asked=asked, answer=None, at=here.now()))
            return None
        if row.asked != asked:
            raise KeyReused(f"This {HEADER} was sent with another request.", "Send a new key with a new request.")
        if row.answer is None and row.at >= here.now() - UNDER_WAY_SECONDS:
            raise Conflict("The same request is being done just now.", "Wait a little, then ask again.")
        row.at = here.now() if row.answer is None else row.at
        return row.answer


def _keep(here: Service, name: str, done: BaseModel) -> None:
    with here.database.writing() as session:
        if row := session.get(AnswerRow, name):
            row.answer = done.model_dump_json()


def _forget(here: Service, name: str) -> None:
    with here.database.writing() as session:
        session.execute(delete(AnswerRow).where(AnswerRow.name == name))
