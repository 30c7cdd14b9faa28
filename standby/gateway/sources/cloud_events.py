"""CloudEvents over HTTP, structured and binary, read by the official library.

CloudEvents say nothing about who sends them, so one of the source's secrets comes along: ``Authorization: Bearer
SECRET``, or ``X-Signature: sha256=HEX`` over the body. Such a signature covers no header, where binary mode has the
event's type and id, so with it structured mode alone is taken. An event id is unique for its ``source`` attribute only,
so the two make the delivery id. Of its data binary mode has nothing else in the body, and structured mode a field
``data``: in both, what is in the data may be named with ``data.`` before it or without.
"""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import unquote_to_bytes

from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from standby.gateway.sources.base import Incoming, Malformed, Received, Unverified, parsed


def receive(incoming: Incoming) -> Received:
    _authenticate(incoming)
    kind = incoming.headers.get("content-type", "").lower()
    if kind.startswith("application/cloudevents") and ("-batch" in kind or incoming.body.lstrip().startswith(b"[")):
        raise Malformed("event", "batches are not taken: send each event by itself")
    _check_headers(incoming)
    try:
        event = from_http_event(HTTPMessage(dict(incoming.headers), incoming.body))
    except Exception as error:  # the library lets the errors of its parsers through
        raise Malformed("event", f"it is not a CloudEvent: {error}") from None
    data: Any = event.get_data()
    if isinstance(data, bytes):
        data = parsed(data) if data else None
    return Received(f"{event.get_source()} {event.get_id()}", event.get_type(), data, "data")


def _check_headers(incoming: Incoming) -> None:
    """Refuse what the library would read with a mark in the place of what is no UTF-8: two ids would become one."""
    for name, value in incoming.headers.items():
        if name.startswith("ce-"):
            try:
                unquote_to_bytes(value).decode()
            except UnicodeDecodeError:
                raise Malformed(name, "it is not UTF-8") from None


def _authenticate(incoming: Incoming) -> None:
    if signature := incoming.headers.get("x-signature"):
        incoming.check_hmac(incoming.body, [signature.removeprefix("sha256=")])
        for name in incoming.headers:
            if name.startswith("ce-"):  # by which the library knows binary mode
                raise Malformed(
                    name, "no signature over the body covers it: send the event in structured mode "
                    "(application/cloudevents+json), without ce- headers"
                )  # fmt: skip
        return
    scheme, _, given = incoming.header("authorization").partition(" ")
    if scheme.lower() != "bearer" or not any(
        hmac.compare_digest(secret.encode(), given.encode("utf-8", "replace")) for secret in incoming.secrets
    ):
        raise Unverified("the secret does not match")
