"""`POST /webhook[/<secret>]?event=NAME`: authenticate, bound, hand to the intake, answer."""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from urllib.parse import parse_qs

import structlog
from flask import Blueprint, Response, request
from msgspec import Struct
from werkzeug.exceptions import HTTPException

from app import metrics
from app.config import Networks
from app.events import KINDS, BadEvent
from app.intake import Intake
from app.relay import label
from app.store.writer import NotStored
from app.web.errors import ApiError

log = structlog.get_logger()


class Origin(Struct, frozen=True):
    """Whose calls are taken. `secret`: b"" where the address alone decides."""

    secret: bytes
    allow_from: Networks
    trusted_proxies: Networks


def blueprint(intake: Intake, origin: Origin, max_body: int) -> Blueprint:
    """`max_body`: bytes of one call."""
    webhook = Blueprint("webhook", __name__)
    # Alerts ask for their rate, and a series that begins with a burst has none.
    for event in (*KINDS, label("")):
        for refused in ("401", "403", "503"):
            metrics.WEBHOOKS.labels(event, refused)

    # A server that was given an address without a path posts to "/".
    @webhook.post("/")
    @webhook.post("/webhook")
    @webhook.post("/webhook/<path:secret>")
    def receive(secret: str = "") -> Response:
        started = time.perf_counter()
        query = _query()
        event = query.get("event", "")
        named = label(event)
        status = 500
        try:
            _authorise(origin, secret, query.get("token", ""))
            _accept(intake, event, max_body)
            status = 200
        except ApiError as error:
            status = error.status
            raise
        except HTTPException as error:
            status = error.code or status
            raise
        finally:
            metrics.WEBHOOKS.labels(named, str(status)).inc()
            metrics.WEBHOOK_SECONDS.labels(named).observe(time.perf_counter() - started)
        # v2 closes the connection after an answer that has a body.
        return Response(status=200, headers={"Content-Length": "0"}, content_type=None)

    return webhook


def _query() -> dict[str, str]:
    """v2 appends `?event=` to an address that has a query already: `?token=SECRET?event=msg.offline`."""
    text = request.query_string.decode("latin-1")
    if "?event=" in text:
        text = "&event=".join(text.rsplit("?event=", 1))
    return {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}


def _authorise(origin: Origin, in_path: str, in_query: str) -> None:
    address = client_address(request.remote_addr, request.headers.getlist("X-Forwarded-For"), origin.trusted_proxies)
    if address is not None and not any(address in network for network in origin.allow_from):
        raise ApiError(403, "forbidden", f"{address} is not in webhook.allow_from")
    if not origin.secret:
        return
    for given in (in_path, in_query, _password()):
        if given and hmac.compare_digest(given.encode(errors="replace"), origin.secret):
            return
    raise ApiError(
        401,
        "unauthorized",
        "the webhook secret is missing or wrong; allowed: /webhook/<secret>, the password of Basic auth, or ?token=",
        {"WWW-Authenticate": 'Basic realm="webhook"'},
    )


def _password() -> str | None:
    try:
        given = request.authorization
    except ValueError:  # raised for credentials that are not ASCII
        return None
    return given.password if given and given.type == "basic" else None


def client_address(
    peer: str | None, forwarded: list[str], trusted: Networks
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Who really called: the last hop that no trusted proxy vouches for. None for a Unix socket without a proxy.

    Raises ApiError where a trusted proxy names what is no address: whoever called is unknown then.
    """
    hops = [hop.strip() for line in forwarded for hop in line.split(",") if hop.strip()]
    # Whoever may open a Unix socket is local, and so trusted.
    address = _address(peer) if peer else None
    while hops and (address is None or any(address in network for network in trusted)):
        hop = _PORT.sub(r"\1\2", hops.pop())
        try:
            address = _address(hop)
        except ValueError:
            raise ApiError(403, "forbidden", "X-Forwarded-For: found no address; allowed: IP addresses") from None
    return address


_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|(\d+\.\d+\.\d+\.\d+))(?::\d+)?")
"""Some proxies write the port behind the address."""


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _body(most: int) -> bytes:
    try:
        return request.stream.read(most)
    except Exception as error:  # gunicorn's, for bad chunks and time-outs, or the socket's own
        raise ApiError(400, "bad_request", "body: broken off, or badly chunked") from error


def _accept(intake: Intake, event: str, max_body: int) -> None:
    if not event:
        raise ApiError(
            400, "bad_request", "event: missing; allowed: ?event=msg.offline, msg.notify or user.onlinestatus"
        )
    length = request.content_length
    if length is not None and length > max_body:
        raise ApiError(413, "too_large", f"body: {length} bytes; allowed: webhook.max_body, {max_body} bytes")
    if not intake.wants(event):
        return
    body = _body(max_body + 1 if length is None else length)
    if length is not None and len(body) < length:
        raise ApiError(400, "bad_request", f"body: broken off after {len(body)} of {length} bytes")
    if len(body) > max_body:
        raise ApiError(413, "too_large", f"body: too large; allowed: webhook.max_body, {max_body} bytes")
    try:
        metrics.ELEMENTS.labels(label(event)).inc(intake.accept(event, body))
    except BadEvent as error:
        raise ApiError(400, "bad_request", str(error)) from None
    except NotStored as error:
        raise ApiError(503, "unavailable", str(error)) from None
