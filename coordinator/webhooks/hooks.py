"""The webhooks' file: who is told, in which form, with which secret. Address and secret are for nobody's eyes."""

import base64
import binascii
import re
import stat
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from protocol.errors import BadInput, NotFound

SECRET_PREFIX = "whsec_"  # noqa: S105 (how a secret begins, not one)
SECRET_BYTES = range(24, 65)
"""As Standard Webhooks has it."""


class Format(StrEnum):
    """What a receiver understands."""

    JSON = "json"
    """The event as the API gives it."""
    DISCORD = "discord"
    MATRIX = "matrix"
    """As hookshot and its like take it: ``text`` and ``html``."""


def _address(secret: SecretStr) -> SecretStr:
    parts = urlsplit(secret.get_secret_value())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is no http(s) address")
    return secret


def _key(secret: SecretStr) -> SecretStr:
    key_bytes(secret)
    return secret


def key_bytes(secret: SecretStr) -> bytes:
    """The HMAC's key. Raises ValueError when it is not written as Standard Webhooks has it."""
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(SECRET_PREFIX) or len(key) not in SECRET_BYTES:
        raise ValueError("is whsec_ and 24 to 64 random bytes in base64")
    return key


class Webhook(BaseModel):
    """One receiver."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    """By which it is listed, and told of in the log: everybody can read it."""
    url: Annotated[SecretStr, AfterValidator(_address)]
    """Where it listens; to whoever knows a chat room's address, it is the key to it."""
    secret: Annotated[SecretStr, AfterValidator(_key)]
    format: Format = Format.JSON
    kinds: tuple[str, ...] = ()
    """What it is told: events whose kind begins with one of these; all, when there are none."""

    @property
    def host(self) -> str:
        """All of its address that may be shown."""
        return str(urlsplit(self.url.get_secret_value()).hostname)

    def wants(self, kind: str) -> bool:
        return not self.kinds or kind.startswith(self.kinds)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    webhook: tuple[Webhook, ...] = ()


def load_hooks(file: Path | None) -> tuple[Webhook, ...]:
    """Everybody who is told; nobody, without a file.

    Raises:
        BadInput: the file is missing, others may read it, it is no TOML, or an entry in it is wrong; names the entry.
    """
    if file is None:
        return ()
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise BadInput(f"Others may read {file}, and it holds secrets.", f"Run: chmod 600 {file}")
        hooks = _File.model_validate(tomllib.loads(file.read_text())).webhook
    except ValidationError as error:
        first = error.errors()[0]
        place = re.sub(r"\.(\d+)", lambda found: f" {int(found[1]) + 1}", ".".join(map(str, first["loc"])), count=1)
        raise BadInput(f"{file}: {place}: {first['msg'].removeprefix('Value error, ')}.", "Mend the file.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{file} cannot be read as TOML.", "Mend the file that webhooks names.") from error
    names = [hook.name for hook in hooks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"{file}: two webhooks are called {twice}.", "Give each a name of its own.")
    return hooks


def hook_named(hooks: tuple[Webhook, ...], name: str) -> Webhook:
    """Raises NotFound when there is none."""
    found = next((hook for hook in hooks if hook.name == name), None)
    if found is None:
        raise NotFound(f"There is no webhook {name[:40]}.", "List them: coterie-coordinator webhook list.")
    return found
