"""What tests of the web side share: an app without a chain, and a client that holds every answer to the document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
from eth_account import Account
from eth_account.messages import encode_defunct
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from coordinator.config import CoordinatorSettings
from coordinator.web.app import create_app
from coordinator.web.limits import Kind

ROOT = Path(__file__).parents[1]
UNCOUNTED = {f"limit_{kind}": "" for kind in Kind}
"""Settings under which one may ask as often as one likes."""


def plain_settings(folder: Path, **changes: Any) -> CoordinatorSettings:
    """Of a coordinator whose chain does not answer."""
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "model_index.json").write_text("{}")
    policy = ROOT / "docs" / "policies" / "cc0-only.json"
    given = {"data": folder / "data", "policy": policy, "base": folder / "base", "base_name": "none", **changes}
    return CoordinatorSettings(**{"rpc_url": "http://127.0.0.1:9", **given})


@contextmanager
def plain_app(folder: Path, **changes: Any) -> Iterator[Flask]:
    """Its web side."""
    app = create_app(plain_settings(folder, **changes))
    app.test_client_class = DocumentedClient
    yield app
    app.extensions["coterie"].database.close()


def signed_in(client: FlaskClient, key: str) -> dict[str, str]:
    """The headers of a fresh session of this key's wallet, signed in as a page does it."""
    asked = {"address": Account.from_key(key).address}
    message = client.post("/api/v1/session/text", json=asked).json["message"]
    signature = "0x" + bytes(Account.sign_message(encode_defunct(text=message), key).signature).hex()
    opened = client.post("/api/v1/session", json={"message": message, "signature": signature})
    assert opened.status_code == 200, opened.json
    return {"Authorization": f"Bearer {opened.json['token']}"}


class DocumentedClient(FlaskClient):
    """A test client for which an answer is wrong that is not as the OpenAPI document says."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        answer = super().open(*args, **kwargs)
        if answer.status_code != 304:
            _require_documented(self.application, answer)
        return answer


def _require_documented(app: Flask, answer: TestResponse) -> None:
    method = answer.request.method
    try:
        rule, _ = app.url_map.bind("").match(answer.request.path, method, return_rule=True)
    except HTTPException:
        return
    path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
    written = app.api_doc["paths"].get(path, {}).get(method.lower())
    if written is None:
        return
    responses = written["responses"]
    told = responses.get(str(answer.status_code), responses["default"])
    assert answer.mimetype in told["content"], f"{method} {path}: {answer.status_code} as {answer.mimetype}"
    if "schema" not in told["content"][answer.mimetype]:
        return
    reference = told["content"][answer.mimetype]["schema"]["$ref"]
    for error in _schema(app, reference).iter_errors(answer.json):
        raise AssertionError(f"{method} {path}: {error.message} at {list(error.instance_path)}")


@cache
def _schema(app: Flask, reference: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": reference, "components": app.api_doc["components"]})
