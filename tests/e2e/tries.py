"""What the vendors saw of each push, and what they may not have seen."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from app.demo.standin import StandinProcess

Tries = dict[tuple[str, str], list[dict[str, Any]]]


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
    told = {
        push: [(r["answered"], r["cancelled"], r["fault"], r["connection"]) for r in requests]
        for push, requests in found.items()
    }
    lost = {push: said for push, said in told.items() if 200 not in [status for status, *_ in said]}
    assert not lost, f"{len(lost)} pushes were never taken, such as {next(iter(lost.items()))}"
    doubled = {push: said for push, said in told.items() if any(_again(one, said[n:]) for n, one in enumerate(said, 1))}
    assert not doubled, f"{len(doubled)} pushes were sent after a 200, such as {next(iter(doubled.items()))}"


def _again(first: tuple[Any, ...], later: Sequence[tuple[Any, ...]]) -> bool:
    """Whether any of the later ones was sent though this one had been answered with 200, which was known.

    A vendor that is busy may read an older connection after a newer one: what nobody answered there came before.
    """
    status, cancelled, _, connection = first
    known = status == 200 and not cancelled
    return known and any(answered is not None or over >= connection for answered, _, _, over in later)
