"""A vendor that fails: three requests in every ten are hit, the kinds of fault dealt like cards.

Which requests and which kinds is as random as a seed makes it, so a run can be had again; every kind comes up once a
round, which is about a hundred requests.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from h2.errors import ErrorCodes
from msgspec import Struct

from app.demo.standin.values import Last, Scripted

HIT, OF = 3, 10
SLOW = 0.3
"""Seconds: late, but before any time-out."""
_SOON: dict[str, str | None] = {"retry-after": "1"}

_APNS = {status: {"reason": reason} for status, reason in ((429, "TooManyRequests"), (500, "InternalServerError"))}
_APNS[503] = {"reason": "ServiceUnavailable"}
_FCM_WORDS = {429: ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), 500: ("INTERNAL",) * 2, 503: ("UNAVAILABLE",) * 2}


class Fault(Struct, frozen=True):
    """One way to fail.

    answer: what is done about the request; None leaves it to the vendor.
    goaway: GOAWAY goes out first, and this many of the open requests still count; the request may be none of them.
    debug: what the GOAWAY carries.
    """

    answer: Scripted | None = None
    goaway: Last | None = None
    debug: bytes = b""


def _refusal(server: str, status: int) -> Any:
    """The vendor's own words: of APNs from "Handling notification responses", of FCM from "ErrorCode"."""
    if server == "apns":
        return _APNS[status]
    canonical, code = _FCM_WORDS[status]
    detail = {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}
    return {"error": {"code": status, "status": canonical, "message": "Injected.", "details": [detail]}}


def kinds(server: str) -> dict[str, tuple[int, Fault]]:
    """What may go wrong at this vendor by name, and how often in a round.

    What breaks a connection hits every request on it, so it comes up least.
    """
    words = {status: _refusal(server, status) for status in (429, 500, 503)}
    return {
        "refused": (3, Fault(Scripted("refuse"))),
        "reset-internal": (3, Fault(Scripted("reset", code=ErrorCodes.INTERNAL_ERROR))),
        "reset-cancel": (3, Fault(Scripted("reset", code=ErrorCodes.CANCEL))),
        "dropped": (1, Fault(Scripted("drop"))),
        "goaway-all": (1, Fault(goaway="all")),
        "goaway-some": (1, Fault(goaway="some", debug=b'{"reason":"Shutdown"}')),
        "goaway-none": (1, Fault(goaway="none", debug=b"x" * 1000)),
        "500": (2, Fault(Scripted(status=500, body=words[500]))),
        "500-bare": (2, Fault(Scripted(status=500))),
        "503": (2, Fault(Scripted(status=503, body=words[503]))),
        "503-retry-after": (2, Fault(Scripted(status=503, body=words[503], headers=_SOON))),
        "503-cut": (1, Fault(Scripted("cut", status=503, body=words[503], code=ErrorCodes.INTERNAL_ERROR))),
        "429": (1, Fault(Scripted(status=429, body=words[429], headers=_SOON))),
        "200-cut": (3, Fault(Scripted("cut", code=ErrorCodes.INTERNAL_ERROR))),
        "200-bare": (3, Fault(Scripted(status=200))),
        "hang": (3, Fault(Scripted("hang"))),
        "slow": (6, Fault(Scripted("default", delay=SLOW))),
    }


class Faults:
    """Deals faults for one server.

    only: the names of those that there are to be; all where it is empty. Raises ValueError for a name there is none of.
    """

    def __init__(self, server: str, seed: int, only: Sequence[str] = ()) -> None:
        found = kinds(server)
        unknown = sorted(set(only) - found.keys())
        if unknown:
            raise ValueError(f"no such fault: {', '.join(unknown)}; there are {', '.join(found)}")
        self._deal = _deal(random.Random(seed), {name: found[name] for name in only or found})

    def next(self) -> tuple[str, Fault] | None:
        """What is to become of the next request; None for what the vendor would say."""
        return next(self._deal)


def _deal(order: random.Random, found: Mapping[str, tuple[int, Fault]]) -> Iterator[tuple[str, Fault] | None]:
    cards = [(name, fault) for name, (often, fault) in found.items() for _ in range(often)]
    deck: list[tuple[str, Fault]] = []
    while True:
        hit = set(order.sample(range(OF), HIT))
        for place in range(OF):
            if place not in hit:
                yield None
                continue
            deck = deck or order.sample(cards, len(cards))
            yield deck.pop()
