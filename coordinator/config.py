"""All settings of a coordinator in one place: a TOML file, and environment variables that go before it."""

import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from limits import parse_many
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from contracts_abi.names import REGISTRY as ENS_REGISTRY
from protocol.base import base_hash
from protocol.errors import BadInput
from protocol.policy import Policy, parse_policy

ENVIRONMENT_PREFIX = "COTERIE_COORDINATOR_"
Port = Annotated[int, Field(ge=1, le=65535)]


def _rate(text: str) -> str:
    """Raises ValueError when it is no limit."""
    if text:
        parse_many(text)
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class CoordinatorSettings(BaseSettings):
    """What a coordinator is told. Relative paths in the file are relative to the file."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid")

    data: Path = Path("data")
    """The folder of the database, contributions, releases and the SuperLink's state."""
    rpc_url: str
    """A JSON-RPC endpoint of the policy's chain."""
    policy: Path
    """The policy document, JSON."""
    base: Path
    """The base model: a diffusers folder."""
    base_name: str
    host: str = "127.0.0.1"
    port: Port = 8000
    uri: str = ""
    """How members reach the coordinator; host and port when left empty."""
    superlink_port: Port | None = None
    """Of the SuperLink on loopback; a free one, kept from then on, when not set."""
    indexer_url: str = ""
    """Alchemy's NFT API for the policy's chain, as https://eth-mainnet.g.alchemy.com: it helps to find tokens."""
    indexer_key: SecretStr = SecretStr("")
    """Its key. Without one tokens are found by enumeration and by logs."""
    eas: str = ""
    """The Ethereum Attestation Service's contract on the policy's chain, where releases are to be attested."""
    ens_name: str = ""
    """The DAO's ENS name that is to point to its newest release."""
    ens_registry: str = ENS_REGISTRY
    gateways: tuple[str, ...] = ()
    """IPFS gateways for readers of releases, beside this coordinator's own."""
    ipfs_api: str = ""
    """The RPC of an IPFS node to pin releases at: a multiaddr or a URL; none when left empty."""
    pinning_service: str = ""
    """The endpoint of a Pinning Service API to pin releases at; none when left empty."""
    pinning_token: SecretStr = SecretStr("")
    """What the pinning service knows us by."""
    mirrors: tuple[str, ...] = ()
    """Gateways that are to serve every release; they are looked at, not written to."""
    pin_check_minutes: Annotated[float, Field(gt=0)] = 360.0
    """How often every release is looked at everywhere, and put back where it was lost."""
    database_url: SecretStr = SecretStr("")
    """postgresql://user:password@host/database, or another SQLite file; one in the data folder when left empty."""
    scoring_timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    """How long the members have to score; then the scores that are there decide, if there is one."""
    webhooks: Path | None = None
    """A private TOML file that names who is told what happens: addresses, secrets, kinds. Nobody without one."""
    poll_seconds: Annotated[float, Field(gt=0)] = 1.0
    """How often the worker looks at rounds and at the chain."""
    merge_processes: Annotated[int, Field(ge=1)] = 1
    """Processes that merge side by side; worth more than one from SD-sized bases on."""
    keep_sums: bool = False
    """Keep a merge's sums on the disk, so that the next one reads only what differs."""
    web_workers: Annotated[int, Field(ge=1)] = 2
    streams: Annotated[int, Field(ge=1, le=4096)] = 512
    """Streams of events that each process of the web server keeps open; whoever comes later is told to ask again."""
    streams_each: Annotated[int, Field(ge=1)] = 32
    """Of them from one address."""
    sign_in_seconds: Annotated[int, Field(ge=60, le=3600)] = 600
    """How long a nonce is good, and how old a sign-in message may be."""
    proxies: Annotated[int, Field(ge=0)] = 0
    """Reverse proxies in front, each of which adds its caller's address to X-Forwarded-For."""
    limit_reads: Rate = "3000/minute"
    """What one source may ask of pages and public lists, as 20/second;1000/hour. Empty: as much as it likes."""
    limit_files: Rate = "6000/minute"
    """Of releases' files and blocks."""
    limit_sign_in: Rate = "120/minute"
    """Nonces and sign-ins; one sign-in takes two."""
    limit_machines: Rate = "120/minute"
    """What machines without a wallet ask and poll."""
    limit_progress: Rate = "1200/minute"
    """How far machines say they are; each tells six times a minute."""
    limit_acts: Rate = "120/minute"
    """Grants, orders, and whatever else changes something."""
    limit_streams: Rate = "120/minute"
    """Event streams that are opened."""
    limit_storage: str = "memory://"
    """Where requests are counted: in each web process, or in one place for all, as redis://host:6379."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file, whose values are the keyword arguments."""
        return env_settings, init_settings

    @classmethod
    def load(cls, file: Path) -> "CoordinatorSettings":
        """Read ``file`` and the environment.

        Raises:
            BadInput: the file is missing, is no TOML, or a setting is missing or wrong; names the setting.
        """
        try:
            values = tomllib.loads(file.read_text())
        except FileNotFoundError as error:
            raise BadInput(f"There is no settings file {file}.", "Name one with --config.") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadInput(f"{file} cannot be read as TOML: {error}.", "Mend the file.") from error
        folder = file.resolve().parent
        placed = {"data": folder / "data", **values}
        for name in ("data", "policy", "base", "webhooks"):
            if isinstance(placed.get(name), str | Path):
                placed[name] = folder / placed[name]
        try:
            return cls(**placed)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise BadInput(f"{file}: {name}: {first['msg']}.", f"Set it there or as {ENVIRONMENT_PREFIX}….") from error

    @property
    def public_uri(self) -> str:
        """Without a slash at the end."""
        return self.uri.rstrip("/") or f"http://{self.host}:{self.port}"

    @property
    def domain(self) -> str:
        """The authority that a SIWE message must name."""
        return urlsplit(self.public_uri).netloc

    @property
    def database(self) -> str:
        """The SQLAlchemy URL."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.data.resolve() / 'coordinator.sqlite'}"

    @property
    def contributions(self) -> Path:
        return self.data / "contributions"

    @property
    def lessons(self) -> Path:
        return self.data / "lessons"

    @property
    def sums(self) -> Path:
        return self.data / "sums"

    @property
    def candidates(self) -> Path:
        return self.data / "candidates"

    @property
    def releases(self) -> Path:
        return self.data / "releases"

    @property
    def credentials(self) -> Path:
        """The certificate, and its key, that sign in sample sheets, and the key that signs releases; made here."""
        return self.data / "credentials"

    @property
    def store(self) -> Path:
        """The local pin store: CAR files."""
        return self.data / "cars"

    @property
    def policies(self) -> Path:
        """Policies that were in force, by their hashes."""
        return self.data / "policies"

    @property
    def discovery(self) -> Path:
        """How far logs were read, a file for each wallet and contract."""
        return self.data / "discovery"

    @property
    def superlink_file(self) -> Path:
        """Where ``up`` tells the other processes how to reach the SuperLink."""
        return self.data / "superlink.json"

    @property
    def tick_file(self) -> Path:
        """Touched by the worker whenever it looks at its rounds: whoever asks whether it is alive reads the time."""
        return self.data / "worker.tick"

    @cached_property
    def loaded_policy(self) -> Policy:
        """Raises BadInput when the document is missing or wrong."""
        return load_policy(self.policy)

    @cached_property
    def base_hash(self) -> str:
        """What contributions and grants are bound to. Raises BadInput when the folder is no pipeline."""
        return base_hash(self.base)


def load_policy(file: Path) -> Policy:
    """Raises BadInput when the file is missing or no policy; names the field."""
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"There is no policy {file}.", "Name the DAO's policy document.") from error
    except OSError as error:
        raise BadInput(f"The policy {file} cannot be read.", "Name the DAO's policy document.") from error
    return parse_policy(data, str(file))
