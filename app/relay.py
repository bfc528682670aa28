"""Who else gets the events that WuKongIM posts: the targets of `relay:`, and the request for one event."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import blake2b
from urllib.parse import quote, urlsplit

from app.events import KINDS
from providers.kit.base import Quiet, Request

USER = "pushbridge"
"""The user name beside a target's secret."""
LONGEST_NAME = 128
"""Characters of an event's name."""

_HOST = r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"
_URL = re.compile(rf"(https?://{_HOST})(/[!-~]*|\?[!-~]*)?")
ALLOWED = "an http or https URL such as http://10.0.0.9:8090/webhook, in ASCII, without user and fragment"


class Target(Quiet, frozen=True, kw_only=True):
    """One other consumer of the events.

    name: what it is called where anybody looks: its address may hold a secret.
    origin: scheme, host and port. path: all that stands before the event's name in the address.
    events: the names of those that it wants; None = all.
    max_age: milliseconds after which an event is worth nothing to it.
    max_backlog: events that may wait for it; above that the oldest are dropped.
    timeout: seconds for one request.
    """

    shown = ("name",)

    name: str
    origin: str
    path: str
    headers: Mapping[str, str]
    events: frozenset[str] | None
    max_age: int
    max_backlog: int
    timeout: float

    def wants(self, event: str) -> bool:
        """Whether it gets the events of this name."""
        return event in self.events if self.events is not None else is_name(event)

    def request(self, event: str, body: bytes) -> Request:
        """The request that WuKongIM would make."""
        return Request("POST", self.path + quote(event, safe=""), self.headers, body)


def is_name(event: str) -> bool:
    """Whether an event of this name is passed on. U+FFFD stands where a name was no UTF-8."""
    return 0 < len(event) <= LONGEST_NAME and event.isprintable() and "\ufffd" not in event


def label(event: str) -> str:
    """The event in metrics and logs: whoever may post can make up names, but not series."""
    return event if event in KINDS else "other"


def target(
    url: str, secret: bytes, events: frozenset[str] | None, *, max_age: int, max_backlog: int, timeout: float
) -> Target:
    """Raises ValueError, which says what is allowed, where `url` is none that can be posted to."""
    found = _URL.fullmatch(url)
    if found is None or "#" in url:
        raise ValueError(ALLOWED)
    origin, path = found[1], found[2] or "/"
    try:
        parts = urlsplit(origin)
        port = parts.port if parts.port is not None else {"http": 80, "https": 443}[parts.scheme]
    except ValueError:
        raise ValueError(ALLOWED) from None
    if not port:
        raise ValueError(ALLOWED)
    path = path if path.startswith("/") else f"/{path}"
    headers = {"content-type": "application/json"}
    if secret:
        headers["authorization"] = "Basic " + b64encode(f"{USER}:".encode() + secret).decode()
    return Target(
        name=f"{(parts.hostname or '')[:64]}:{port}/{blake2b(url.encode(), digest_size=4).hexdigest()}",
        origin=origin,
        path=f"{path}{'&' if '?' in path else '?'}event=",
        headers=headers,
        events=events,
        max_age=max_age,
        max_backlog=max_backlog,
        timeout=timeout,
    )
