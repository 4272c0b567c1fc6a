"""From a file's bytes to a policy, or one sentence about what is wrong with them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from protocol.errors import BadInput
from protocol.policy.document import Policy

MAX_BYTES = 2**20
Model = TypeVar("Model", bound=BaseModel)


def parse_policy(data: bytes, name: str = "The document") -> Policy:
    """The policy in ``data``, which errors call ``name``.

    Raises:
        BadInput: it is no policy, or one that can be read in two ways; says where.
    """
    return parse(Policy, data, name, "policy")


def parse(model: type[Model], data: bytes, name: str, what: str) -> Model:
    """A ``model`` from JSON; raises BadInput naming the place. ``what`` is what people call such a document."""
    if len(data) > MAX_BYTES:
        raise BadInput(f"{name} is no {what}: the document has more than {MAX_BYTES} bytes.", "Shorten it.")
    value = _json(data, name, what)
    if not isinstance(value, dict):
        raise BadInput(f"{name} is no {what}: the document is no JSON object.", "It begins with { and ends with }.")
    if what == "policy" and isinstance(version := value.get("version", 1), int) and version > 1:
        raise BadInput(f"{name} is a policy of version {version}, and this program knows version 1.", "Update Coterie.")
    try:
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise _sentence(error, name, what, model) from error


def _json(data: bytes, name: str, what: str) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is no {what}: the document is not UTF-8.", "Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{name} is no {what}: the document is no JSON at {where}: {error.msg}.", "Mend it.") from error
    except RecursionError as error:
        raise BadInput(f"{name} is no {what}: the document is nested too deep.", "Mend it.") from error
    except ValueError as error:
        raise BadInput(f"{name} is no {what}: {error}.", "Mend the document.") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} is there twice in one object")
        found[key] = value
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


def _sentence(error: ValidationError, name: str, what: str, model: type[BaseModel]) -> BadInput:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the document"
    if first["type"] == "extra_forbidden":
        return BadInput(f"{name} is no {what}: {place} means nothing.", _meant(str(first["loc"][-1]), model))
    if first["type"] == "missing":
        return BadInput(f"{name} is no {what}: {place} is missing.", "Add it.")
    said = first["msg"].removeprefix("Value error, ")
    return BadInput(f"{name} is no {what}: {place}: {said}.", "Mend the document.")


def _meant(field: str, model: type[BaseModel]) -> str:
    """What may have been meant by a field that does not exist, looked for in the whole document's schema."""
    schema: Mapping[str, Any] = model.model_json_schema()
    known = {key for one in (schema, *schema.get("$defs", {}).values()) for key in one.get("properties", {})}
    near = difflib.get_close_matches(field, sorted(known), n=1)
    return f"Did you mean {near[0]}?" if near else "Remove it, or look at docs/policy.md."
