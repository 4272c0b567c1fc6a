"""``choice.toml`` in the member's home folder: the choice as a person may also write it by hand."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from client.collection.choice import Choice
from protocol.errors import BadInput

FILE = "choice.toml"


def load_choice(home: Path) -> Choice:
    """The member's choice; every token once where none was made.

    Raises:
        BadInput: the file is no TOML, or says something that is no choice.
    """
    path = home / FILE
    if not path.exists():
        return Choice()
    try:
        return choice_from(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{FILE} is no TOML: {error}.", f"Correct {path} or remove it.") from error


def save_choice(choice: Choice, home: Path) -> None:
    """Write it whole or not at all."""
    home.mkdir(parents=True, exist_ok=True)
    beside = home / f".{FILE}.part"
    beside.write_text("\n".join(_lines(choice.model_dump(mode="json", exclude_defaults=True))) + "\n", encoding="utf-8")
    beside.replace(home / FILE)


def choice_from(values: Mapping[str, Any]) -> Choice:
    """The choice that ``values`` say, with a sentence where they say none.

    Raises:
        BadInput: a field that is not known, or a value that is none for it.
    """
    try:
        return Choice.model_validate({**values})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        told = first["msg"].removeprefix("Value error, ")
        raise BadInput(
            f"The choice's {where} is wrong: {told}.", f"Correct it, or {FILE} in the home folder."
        ) from error


def _lines(table: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """TOML. A JSON string, number or list of strings is written the same way there."""
    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    plain = {name: value for name, value in table.items() if name not in tables}
    if within and plain:
        yield f"\n[{within}]"
    yield from (f"{_key(name)} = {_text(value)}" for name, value in plain.items())
    for name, inner in tables.items():
        yield from _lines(inner, f"{within}.{_key(name)}" if within else _key(name))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
