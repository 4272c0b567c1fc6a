"""What a receiver is sent: the event in its form, and the signature over it. Pure."""

import base64
import hmac
import html
import json
import re
from collections.abc import Mapping

from coordinator.webhooks.hooks import Format, Webhook, key_bytes
from protocol.events import Event

DISCORD_CHARACTERS = 2000
"""Of a message's text (discord.com/developers/docs/resources/webhook)."""
NO_PREVIEWS = 4
"""Discord's flag for a message whose links are not unfolded."""
_MARKUP = re.compile(r"([\\*_~`|>\[\]()#<@])")


def body_of(form: Format, event: Event, dao: str) -> bytes:
    """The request's body, JSON. Nobody is called by a mention, and nothing in an event is markup."""
    said = f"{dao}: {event.message}"
    match form:
        case Format.JSON:
            content: Mapping[str, object] = {
                "number": event.number,
                "previous": event.previous,
                "hash": event.hash,
                "body": event.body,
            }
        case Format.DISCORD:
            text = _cut(_MARKUP.sub(r"\\\1", said), DISCORD_CHARACTERS)
            content = {"content": text, "allowed_mentions": {"parse": []}, "flags": NO_PREVIEWS}
        case Format.MATRIX:
            content = {"text": said, "html": f"<b>{html.escape(dao)}</b>: {html.escape(event.message)}"}
    return json.dumps(content).encode()


def message_id(event: Event) -> str:
    """The same however often the event is sent: a receiver knows by it what it has had already."""
    return f"event_{event.number}_{event.hash[:16]}"


def headers_of(hook: Webhook, identifier: str, body: bytes, now: int) -> dict[str, str]:
    """Identity, time and signature (Standard Webhooks 1.0.0): HMAC-SHA256 over ``id.timestamp.body``, in base64."""
    signed = hmac.digest(key_bytes(hook.secret), f"{identifier}.{now}.".encode() + body, "sha256")
    return {
        "Content-Type": "application/json",
        "User-Agent": "coterie-coordinator",
        "webhook-id": identifier,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def _cut(text: str, most: int) -> str:
    """To so many UTF-16 units, in which Discord may count."""
    if len(text.encode("utf-16-le")) <= 2 * most:
        return text
    return text.encode("utf-16-le")[: 2 * (most - 1)].decode("utf-16-le", "ignore") + "…"
