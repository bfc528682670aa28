"""What the vendors saw of each push, and what they may not have seen."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from app.demo.standin import StandinProcess

Tries = dict[tuple[str, str], list[dict[str, Any]]]

TOLD = ("answered", "cancelled", "fault", "ignored", "connection", "stream", "n")


def tries(standin: StandinProcess) -> Tries:
    """The requests for each push, which is a device and a message, in the order in which they came."""
    found: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for request in standin.requests():
        if request["server"] != "token":
            body = json.loads(request["body"])
            data = body["message"]["data"] if request["server"] == "fcm" else body
            found[request["device"], data["message_id"]].append(request)
    return dict(found)


def check_delivered_once(found: Tries) -> None:
    """Every push was taken in the end, and none was sent again after a 200 that its sender had not given up before."""
    told = {push: [{name: r[name] for name in TOLD} for r in requests] for push, requests in found.items()}
    lost = {push: said for push, said in told.items() if all(one["answered"] != 200 for one in said)}
    assert not lost, f"{len(lost)} pushes were never taken, such as {next(iter(lost.items()))}"
    doubled = {push: said for push, said in told.items() if _is_doubled(said)}
    assert not doubled, f"{len(doubled)} pushes were sent after a 200, such as {next(iter(doubled.items()))}"


def _is_doubled(requests: Sequence[dict[str, Any]]) -> bool:
    """Whether any came after one that had been answered with 200, which its sender had not given up before."""
    return any(
        first["answered"] == 200 and not first["cancelled"] and not all(_was_older(one, first) for one in requests[n:])
        for n, first in enumerate(requests, 1)
    )


def _was_older(later: dict[str, Any], first: dict[str, Any]) -> bool:
    """Whether it was sent before, and read after it only as the vendor was busy: over a connection that had ended."""
    return bool(later["ignored"]) and later["connection"] < first["connection"]
