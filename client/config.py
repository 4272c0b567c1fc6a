"""The member's settings, in one place: ``member.toml`` in the home folder, under ``COTERIE_*`` in the environment."""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from bases import EMBEDDED_BASE
from client.base import folder_of
from client.media.addresses import parse_address
from client.training.options import TrainingOptions
from contracts_abi.names import REGISTRY
from protocol.errors import BadInput

DEFAULT_HOME = Path("~/.coterie")
FILE = "member.toml"


def _gateway(text: str) -> str:
    try:
        parse_address(text, "The gateway")
    except BadInput as error:
        raise ValueError(error.message) from error
    return text


Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class MemberSettings(BaseSettings):
    """What a member may set.

    Every field has an environment variable: ``rpc_url`` is ``COTERIE_RPC_URL``, ``training.rank`` is
    ``COTERIE_TRAINING__RANK``.
    """

    model_config = SettingsConfigDict(env_prefix="COTERIE_", env_nested_delimiter="__", frozen=True, extra="forbid")

    home: Folder = Field(DEFAULT_HOME, validate_default=True)
    """Node key, grants, rounds, logs. Only ever set by ``COTERIE_HOME`` or ``--home``, for the file lies in it."""
    coordinator: str = ""
    """The coordinator's URL, as it was last joined."""
    rpc_url: str = ""
    """The chain node that this member believes: licences and metadata are read there, not at the coordinator."""
    base: Folder = EMBEDDED_BASE
    """The base model: a diffusers folder, ``owner/name@commit`` on a hub, or ``ipfs://CID``; here, where it lies."""
    gateways: tuple[str, ...] = ()
    """IPFS gateways, tried in order; none means the coordinator's. They are never trusted."""
    arweave_gateways: tuple[Annotated[str, AfterValidator(_gateway)], ...] = ("https://arweave.net",)
    """For ``ar:`` addresses, tried in order. Their word is believed; none means that such tokens are left out."""
    allow_https: bool = True
    """Whether web servers that tokens name are asked, which shows them this machine's address. The member's alone."""
    tell_progress: bool = True
    """Whether the coordinator is told how far this machine is in a round: stage, step and time left."""
    ipfs_api: str = ""
    """The RPC of an IPFS node of the member's own, to fetch releases from first: a multiaddr or a URL."""
    ens_registry: str = REGISTRY
    """Where ENS names are looked up, on ``rpc_url``'s chain."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads for training; none means that the machine is timed once, and the fastest number taken."""
    training: TrainingOptions = TrainingOptions()
    """How this machine trains, where the round leaves that to the member."""

    @field_validator("base", mode="before")
    @classmethod
    def _place_of_base(cls, given: object, info: ValidationInfo) -> object:
        return folder_of(given, info.data["home"]) if isinstance(given, str) and "home" in info.data else given

    @property
    def node_key(self) -> Path:
        """The node's private key, made on the first join."""
        return self.home / "node.pem"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line over environment over file."""
        home = init_settings().get("home") or os.environ.get("COTERIE_HOME") or DEFAULT_HOME
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(home).expanduser() / FILE)


def load_settings(home: Path | None = None, **given: str | Path | int | None) -> MemberSettings:
    """The settings in force; whatever is given here and not None comes before environment and file.

    Raises:
        BadInput: the file or a variable holds something that is no setting, or no value for one.
    """
    values = {name: value for name, value in {"home": home, **given}.items() if value is not None}
    try:
        return MemberSettings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"The setting {name} is wrong: {first['msg']}.", f"Look into {FILE} and COTERIE_*.") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{FILE} is no TOML: {error}.", f"Correct {FILE} in the home folder.") from error


def remember(settings: MemberSettings, *names: str) -> None:
    """Keep these settings, where they were set, in ``member.toml``: the node and the next start find them there."""
    file = settings.home / FILE
    before = tomllib.loads(file.read_text()) if file.exists() else {}
    told = [name for name in names if name in settings.model_fields_set]
    after = {**before, **{name: _plain(getattr(settings, name)) for name in told}}
    if after == before:
        return
    settings.home.mkdir(parents=True, exist_ok=True)
    tables = {name: value for name, value in after.items() if isinstance(value, dict)}
    text = _lines({name: value for name, value in after.items() if name not in tables})
    file.write_text(text + "".join(f"\n[{name}]\n{_lines(table)}" for name, table in sorted(tables.items())))


def _lines(values: Mapping[str, object]) -> str:
    """A JSON string, number, boolean or list of strings is written the same way in TOML."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in sorted(values.items()))


def _plain(value: str | int | Path | tuple[str, ...]) -> str | int | list[str]:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
