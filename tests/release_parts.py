"""What the tests of releases' places are made of: rows of published releases, and a pinning service.

The service is a real HTTP server that speaks the IPFS Pinning Service API; what it does not do is fetch anything.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from eth_account import Account

from contracts_abi.model import Snapshot, Token
from coordinator.database import ContributionRow, Database, GrantRow, ReleaseRow, RoundRow
from protocol import node_key
from protocol.contribution import ContributionHeader, StatisticsRecipe, TokenUse, Training
from protocol.grant import Grant, RoundPlan, sign
from protocol.manifest import BaseReference, Manifest, Merge, MergedContribution

HASH = "0" * 64
SNAPSHOT = Snapshot(chain_id=31337, number=1, hash="0x" + HASH, timestamp=1)
TOKEN = Token(chain_id=31337, contract="0x" + "ab" * 20, token_id=1)
MEMBER = Account.from_key("0x" + "11" * 32)


def merged_contribution(folder: Path, trained_on: Token = TOKEN) -> MergedContribution:
    """One member's, well signed, under an HASH of everything; its grant is for ``TOKEN`` alone."""
    key = folder / "node.pem"
    node_key.create(key)
    grant = Grant(
        dao="d",
        chain_id=31337,
        member=MEMBER.address,
        purpose="p",
        tokens=(TOKEN,),
        node_key=node_key.public_of(key),
        policy_hash=HASH,
        base_hash=HASH,
        expires=2_000_000_000,
    )
    header = ContributionHeader(
        round_id="r",
        grant_id=grant.grant_id,
        node_key=grant.node_key,
        plan_hash=HASH,
        policy_hash=HASH,
        base_hash=HASH,
        tokens=(TokenUse(token=trained_on, media_sha256=HASH, caption="a noun", held_out=False),),
        adapter_sha256=HASH,
        statistics_sha256=HASH,
        recipe=StatisticsRecipe(pictures=1, sampling_steps=1, noise_levels=1, seed=0, rank=1),
        training=Training(steps=1, seconds=1, device="cpu", first_loss=1, last_loss=1),
    )
    return MergedContribution(
        contribution_id=header.digest()[:16],
        member=MEMBER.address,
        grant=grant,
        grant_signature=sign(grant, MEMBER.key.hex()),
        header=header,
        signature=node_key.sign(key, header.canonical()),
        weight=1,
        share=1.0,
        rank=1,
        norm=1.0,
        licences=("CC0",),
    )


def manifest_of(
    contributions: Sequence[MergedContribution] = (), files: dict[str, str] | None = None, base_hash: str = HASH
) -> Manifest:
    """A release's papers."""
    return Manifest(
        dao="Nouns on anvil",
        round_id="r",
        kind="training",
        epoch=1,
        parent=None,
        base=BaseReference(name="small", hash=base_hash),
        policy_hash=HASH,
        snapshot=SNAPSHOT,
        plan=RoundPlan(),
        contributions=tuple(contributions),
        exclusions=(),
        removals=(),
        merge=Merge(regularisation=1e-4, rank=1, tail=0.0, commitment=HASH, gain=1.0, scores=(), scored_by=0),
        licence="CC0",
        duties=(),
        files=files or {},
    )


def publish(database: Database, number: int, cid: str, manifest: Manifest) -> None:
    """Rows of a release as the ledger leaves them, with its contributions live."""
    round_id = f"round-{number}"
    with database.writing() as session:
        session.add(
            RoundRow(
                round_id=round_id,
                number=number,
                kind="training",
                state="published",
                epoch=1,
                plan="{}",
                policy_hash=HASH,
                base_hash=HASH,
                snapshot="{}",
                opened_at=0,
                deadline=0,
            )
        )
        session.flush()
        session.add(
            ReleaseRow(
                number=number,
                cid=cid,
                round_id=round_id,
                kind="training",
                manifest=manifest.canonical().decode(),
                published_at=0,
            )
        )
        for one in manifest.contributions:
            session.add(
                GrantRow(
                    grant_id=one.grant.grant_id,
                    member=one.member,
                    node_key="k",
                    node_id="1",
                    document="{}",
                    signature="",
                    snapshot="{}",
                    expires=0,
                    given_at=0,
                )
            )
            session.flush()
            session.add(
                ContributionRow(
                    contribution_id=one.contribution_id,
                    round_id=round_id,
                    grant_id=one.grant.grant_id,
                    member=one.member,
                    header="{}",
                    signature="",
                    size=0,
                    received_at=0,
                    state="live",
                )
            )


class PinningServer:
    """GET and POST /pins, GET and DELETE /pins/ID, as the spec has them; each look at a pin takes it one step on."""

    def __init__(self, token: str, steps: Sequence[str] = ("queued", "pinning", "pinned")) -> None:
        self.token = token
        self.steps = list(steps)
        self.pins: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.troubles: list[tuple[int, bytes]] = []
        """Answers to give instead, the next first."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            do_DELETE = do_GET  # noqa: N815

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: dict[str, Any] | None) -> None:
                status, data = service.respond(self.command, self.path, self.headers.get("Authorization", ""), body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def respond(self, method: str, path: str, authorization: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        parts = urlsplit(path)
        self.asked.append(f"{method} {parts.path}")
        if self.troubles:
            return self.troubles.pop(0)
        if authorization != f"Bearer {self.token}":
            problem = {"error": {"reason": "UNAUTHORIZED", "details": f"Not with {authorization}"}}
            return 401, json.dumps(problem).encode()
        if body:
            request = f"request-{len(self.pins) + 1}"
            self.pins[request] = {"pin": body, "looks": 0}
            return 202, json.dumps(self._status(request)).encode()
        if parts.path == "/pins":
            query = {name: value[0] for name, value in parse_qs(parts.query).items()}
            found = [self._status(one) for one, pin in self.pins.items() if pin["pin"]["cid"] == query["cid"]]
            found = [one for one in found if one["status"] in query["status"].split(",")]
            return 200, json.dumps({"count": len(found), "results": found}).encode()
        request = parts.path.removeprefix("/pins/")
        if request not in self.pins:
            return 404, json.dumps({"error": {"reason": "NOT_FOUND"}}).encode()
        if method == "DELETE":
            del self.pins[request]
            return 202, b""
        self.pins[request]["looks"] += 1
        return 200, json.dumps(self._status(request)).encode()

    def _status(self, request: str) -> dict[str, Any]:
        pin = self.pins[request]
        return {
            "requestid": request,
            "status": self.steps[min(pin["looks"], len(self.steps) - 1)],
            "created": "2026-01-01T00:00:00Z",
            "pin": pin["pin"],
            "delegates": [],
            "info": {"status_details": "Queue position: 3 of 9"},
        }

    def __enter__(self) -> PinningServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
