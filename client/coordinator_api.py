"""The coordinator's HTTP API as the member's side calls it: typed answers, one kind of error."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from pydantic import BaseModel, ConfigDict, ValidationError

from client.wallet.key import Wallet
from client.wallet.sign_in import require_own_domain
from contracts_abi.model import Address, Snapshot
from protocol.acts import RevokeGrant
from protocol.errors import BadInput, CoterieError, NotFound, Unreachable
from protocol.grant import Grant, Hash, SignedGrant
from protocol.node_key import RetireKey
from protocol.policy import Policy, Verdict
from protocol.progress import Progress
from protocol.sign_in import sign_in_message

TIMEOUT = (5.0, 60.0)
"""Seconds to connect, and between two pieces of an answer."""
QUICK = (3.0, 5.0)
"""The same, of what may as well be lost."""
MAX_ANSWER = 16 << 20
MAX_PIECES = 1000
"""Of one list."""


class _Answer(BaseModel):
    """What the coordinator says; fields that a newer one adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


Model = TypeVar("Model", bound=_Answer)


class Base(_Answer):
    """The frozen base model, by name and hash."""

    name: str
    hash: Hash


class SuperLink(_Answer):
    """Where SuperNodes connect: host:port, and the PEM certificate that it is known by."""

    address: str
    root_certificate: str


class Dao(_Answer):
    """``GET /api/v1/dao``: everything a member has to know before signing anything."""

    name: str
    purpose: str
    chain_id: int
    domain: str
    uri: str
    policy: Policy
    policy_hash: Hash
    base: Base
    superlink: SuperLink
    gateways: tuple[str, ...] = ()
    signing_key: str | None = None
    """What its releases are signed with: a public key in PEM; None where it has none, or is of an older version."""


class Eligibility(_Answer):
    """``GET /api/v1/verdicts``: all of the wallet's tokens in the policy's collections, at a finalized block."""

    wallet: Address
    snapshot: Snapshot
    verdicts: tuple[Verdict, ...]


class Round(_Answer):
    """One entry of ``GET /api/v1/rounds``."""

    round_id: str
    number: int
    kind: str
    state: str
    expected: int
    contributed: int
    cid: str | None
    reason: str
    """Why it failed or was cancelled."""


class Release(_Answer):
    """One entry of ``GET /api/v1/releases``."""

    cid: str
    kind: str
    withdrawn: bool
    """Whether something that it was made from has ended since."""


class _ShownGrant(_Answer):
    """``GET /api/v1/grants/<id>``."""

    grant: Grant
    signature: str


class DeviceCode(_Answer):
    """``POST /api/v1/devices``: the secret to poll with, and what a person needs to answer in a browser."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int


class DeviceAnswer(_Answer):
    """``POST /api/v1/devices/poll``."""

    state: str
    """pending, slow_down, denied, expired or done."""
    interval: int
    grant: Grant | None = None
    signature: str = ""


class StandingGrant(_Answer):
    """``GET /api/v1/grants/<id>``, as far as a member asks."""

    grant_id: str
    replaced: bool
    newer: str | None = None


class CoordinatorApi:
    """One coordinator. Every method raises the ``CoterieError`` that the coordinator answered with, or Unreachable."""

    def __init__(self, url: str) -> None:
        """``url`` is the coordinator's address with scheme; a path is not expected."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadInput(f"{url} is no address of a coordinator.", "It begins with https:// (or http:// at home).")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._session = requests.Session()

    def dao(self) -> Dao:
        """Who the DAO is, its policy, its base, and where to connect."""
        return _read(Dao, self._get("dao"))

    def sign_in(self, wallet: Wallet, dao: Dao) -> None:
        """Prove the wallet (EIP-4361); later calls carry the session's token."""
        require_own_domain(self.url, dao.domain, dao.uri)
        nonce = str(self._get("nonce")["nonce"])
        now = datetime.now(UTC)
        message = sign_in_message(wallet.address, dao.domain, dao.uri, dao.chain_id, nonce, now)
        answer = self._post("session", {"message": message, "signature": wallet.sign_text(message)})
        self._session.headers["Authorization"] = f"Bearer {answer['token']}"

    def verdicts(self) -> Eligibility:
        """What the policy says of the signed-in wallet's tokens; NotAllowed when it admits none."""
        return _read(Eligibility, self._get("verdicts"))

    def send_grant(self, grant: Grant, signature: str) -> str:
        """Hand in a signed grant, which registers its node key; the grant's id."""
        body = {"grant": grant.model_dump(mode="json"), "signature": signature}
        return str(self._post("grants", body)["grant_id"])

    def ask_for_grant(self, node_key: str, name: str) -> DeviceCode:
        """Begin a device login for this node key; the machine's ``name`` is shown to the person."""
        return _read(DeviceCode, self._post("devices", {"node_key": node_key, "name": name}))

    def poll_device(self, device_code: str) -> DeviceAnswer:
        """Whether the person has answered."""
        return _read(DeviceAnswer, self._post("devices/poll", {"device_code": device_code}))

    def grant_stands(self, grant_id: str) -> bool:
        """Whether the coordinator still counts this grant."""
        try:
            return not _read(StandingGrant, self._get(f"grants/{grant_id}")).replaced
        except NotFound:
            return False

    def newer_grant(self, grant_id: str) -> str | None:
        """The id of the grant that has replaced this one for the same node key, if any. Raises NotFound."""
        return _read(StandingGrant, self._get(f"grants/{grant_id}")).newer

    def retire_key(self, order: RetireKey, signature: str) -> None:
        """Have an old node key shut out for good; ``signature`` is its own."""
        self._post("node-keys/retire", {"retire_key": order.model_dump(mode="json"), "signature": signature})

    def tell_progress(self, told: Progress, signature: str) -> None:
        """Say how far this machine is; ``signature`` is its node key's. Gives up soon."""
        body = {"progress": told.model_dump(mode="json"), "signature": signature}
        self._call("POST", f"rounds/{told.round_id}/progress", body, QUICK)

    def rounds(self) -> list[Round]:
        """All rounds, newest first."""
        return [_read(Round, entry) for entry in self._list("rounds")]

    def releases(self) -> list[Release]:
        """All releases, newest first."""
        return [_read(Release, entry) for entry in self._list("releases")]

    def grant(self, grant_id: str) -> Grant:
        """A grant that the coordinator has; NotFound when there is none with this id."""
        if not re.fullmatch(r"[0-9a-f]{16}", grant_id):
            raise BadInput(f"{grant_id[:40]} is no grant's id.", "It has 16 hexadecimal digits.")
        return self.signed_grant(grant_id).grant

    def signed_grant(self, grant_id: str) -> SignedGrant:
        """The same, with the signature as the coordinator has it; nothing is said about whether that holds."""
        shown = _read(_ShownGrant, self._get(f"grants/{grant_id}"))
        if shown.grant.grant_id != grant_id:
            raise Unreachable(f"The coordinator answered with another grant than {grant_id}.", "Tell the DAO.")
        return SignedGrant(grant=shown.grant, signature=shown.signature)

    def revoke(self, order: RevokeGrant, signature: str) -> str | None:
        """Hand in a signed revocation; the id of the round that makes the model again, where one opens."""
        body = {"revoke_grant": order.model_dump(mode="json"), "signature": signature}
        removal = self._post(f"grants/{order.subject}/revocation", body)["removal_round"]
        return None if removal is None else str(removal)

    def _get(self, path: str) -> Any:
        return self._call("GET", path)[0]

    def _list(self, path: str) -> Iterator[Any]:
        """A list that comes in pieces, each of which links to the next."""
        query: str | None = ""
        for _ in range(MAX_PIECES):
            piece, query = self._call("GET", f"{path}?{query}" if query else path)
            yield from piece
            if not query:
                return
        raise Unreachable(f"The coordinator's {path} do not end.", "Tell the DAO.")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body)[0]

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: tuple[float, float] = TIMEOUT
    ) -> tuple[Any, str]:
        """The answer, and the query of the next piece of it; nothing else of a link is followed."""
        url = f"{self.url}/api/v1/{path}"
        try:
            with self._session.request(
                method, url, json=body, timeout=timeout, stream=True, allow_redirects=False
            ) as response:
                text = b"".join(_bounded(response))
        except requests.RequestException as error:
            raise Unreachable(
                f"The coordinator at {self.url} does not answer.", "Check the address, or try again later."
            ) from error
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise Unreachable(
                f"The coordinator at {self.url} answered {response.status_code} without JSON.", "Check the address."
            ) from error
        if response.status_code not in (200, 201):
            raise problem_of(response.status_code, answer)
        return answer, urlsplit(response.links.get("next", {}).get("url", "")).query


def _read(model: type[Model], answer: Any) -> Model:
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unreachable(
            f"The coordinator's answer cannot be read ({where}: {first['msg']}).",
            "Its version and yours may differ: update Coterie.",
        ) from error


def _bounded(response: requests.Response) -> Iterator[bytes]:
    received = 0
    for piece in response.iter_content(1 << 16):
        received += len(piece)
        if received > MAX_ANSWER:
            raise Unreachable(f"The coordinator's answer is longer than {MAX_ANSWER} bytes.")
        yield piece


def problem_of(status: int, answer: Any) -> CoterieError:
    """The error of an ``application/problem+json`` document, by its code, else by its status."""
    told = answer if isinstance(answer, dict) else {}
    kinds = CoterieError.__subclasses__()
    kind = next((k for k in kinds if k.code == told.get("code")), None)
    kind = kind or next((k for k in kinds if k.status == status), CoterieError)
    message = told.get("detail") or told.get("title") or f"The coordinator answered {status}."
    return kind(str(message), str(told.get("hint") or ""))
