"""What an APNs that never answers costs FCM: the same messages to both, with an APNs that answers and one that hangs.

The two take turns within one run, and the rates that are compared are FCM's. Beside them stands FCM's rate when there
is no iPhone at all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct

from app.clock import now_ms
from app.demo.service import Service
from app.demo.standin import StandinProcess
from app.model import Device
from bench import bridge
from bench.nginx import Nginx

ROUNDS, WEBHOOKS = 3, 64
GROUPS, EACH = 8, 250
"""Groups that are written to by turns, and the members of each at each of the two vendors."""
LEAST = 0.9
ALONE, ANSWERS, HANGS = "alone", "answers", "hangs"


class Result(Struct, frozen=True):
    """FCM's pushes a second: with no APNs, with one that answers, with one that hangs; the median of the rounds."""

    alone: float
    answers: float
    hangs: float

    @property
    def ratio(self) -> float:
        return self.hangs / self.answers

    @property
    def is_good(self) -> bool:
        return self.ratio >= LEAST

    def __str__(self) -> str:
        return (
            f"Blocked neighbour: FCM goes out at {self.hangs:,.0f} pushes/s while APNs hangs, at {self.answers:,.0f}"
            f" while it answers, at {self.alone:,.0f} without it: {self.ratio:.2f} times (at least {LEAST} is wanted)"
        )


def run(folder: Path, nginx: Nginx) -> Result:
    folder.mkdir()
    rates: Mapping[str, list[float]] = {ALONE: [], ANSWERS: [], HANGS: []}
    with StandinProcess(folder / "apns") as silent:
        silent.script_all("apns", [{"action": "hang", "forever": True}])
        elsewhere = {"endpoint": silent.apns, "ca_file": silent.ca_file}
        for number in range(ROUNDS):
            for how, found in rates.items():
                own = folder / f"{how}-{number}"
                own.mkdir()
                ios = bridge.apns(own, nginx) | (elsewhere if how == HANGS else {})
                found.append(_rate(own, nginx, ios, [] if how == ALONE else ["ios"]))
    return Result(**{how: median(found) for how, found in rates.items()})


def _rate(folder: Path, nginx: Nginx, ios: dict[str, Any], beside: list[str]) -> float:
    """FCM's pushes a second, from the first webhook to its last push; `beside`: who else is sent to."""
    providers = {"ios": ios, "android": bridge.fcm(folder, nginx)}
    service = Service(folder, {"providers": providers}, token="bench")  # noqa: S106
    names, pushes = ("android", *beside), WEBHOOKS * EACH
    members = [range(group * EACH, (group + 1) * EACH) for group in range(GROUPS)]
    bridge.register(
        service,
        (Device(f"{name}-{n}", "phone", name, f"{n:064x}", now_ms()) for name in names for n in chain(*members)),
    )
    bodies = [
        bridge.message(
            bridge.FIRST_ID + 1 + number,
            [f"{name}-{n}" for n in members[number % GROUPS] for name in names],
            channel_id=f"room-{number % GROUPS}",
        )
        for number in range(WEBHOOKS)
    ]
    with service:
        before = nginx.fcm_requests()
        bridge.post_all(service.port, [bridge.message(bridge.FIRST_ID, ["android-0"])], [])
        _wait(service, nginx, before + 1)
        started = time.time()
        with ThreadPoolExecutor(bridge.POSTERS) as threads:
            for share in range(bridge.POSTERS):
                threads.submit(bridge.post_all, service.port, bodies[share :: bridge.POSTERS], [])
            _wait(service, nginx, before + 1 + pushes)
    times = nginx.fcm_times()
    if len(times) != before + 1 + pushes:
        raise RuntimeError(f"FCM was sent {len(times) - before} pushes in place of {1 + pushes}")
    return pushes / (times[-1] - started)


def _wait(service: Service, nginx: Nginx, count: int) -> None:
    deadline = time.monotonic() + bridge.LONGEST
    while nginx.fcm_requests() < count:
        service.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"FCM was sent {nginx.fcm_requests()} of {count} pushes: {service.output()}")
        time.sleep(0.01)
