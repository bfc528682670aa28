"""How the bridge is doing: what waits, who is there, what the dispatchers say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from app import intake
from app.store import deliveries, devices, health, inbox, presence
from app.store.dialect import Database, Transaction
from app.store.rows import Health

ALIVE_WITHIN = 10_000
"""Milliseconds since its last beat after which a dispatcher is taken for dead: five beats."""


class Waiting(Struct, frozen=True):
    """How many wait, and for how many seconds the oldest has; null where none waits."""

    depth: int
    oldest_seconds: float | None


class Online(Struct, frozen=True):
    """How many users are said to be online."""

    online: int


class Dispatcher(Struct, frozen=True):
    """One dispatcher process; beside these fields stands what it says of itself, with its providers' figures."""

    owner: str
    alive: bool
    beat_seconds_ago: float


class Stats(Struct, frozen=True, kw_only=True):
    """queue: accepted calls by lane. pending: pushes to be taken up again, by outcome. devices: by provider."""

    queue: dict[str, Waiting]
    pending: dict[str, Waiting]
    devices: dict[str, int]
    presence: Online
    dispatchers: list[Dispatcher]


def stats(database: Database, now: int) -> dict[str, Any]:
    """The figures, in the form of Stats."""
    with database.read() as connection:
        queued = queue(connection)
        pending = deliveries.pending(connection)
        registered = devices.count(connection)
        online = presence.online(connection)
        beats = health.beats(connection)
    return {
        "queue": _waiting(queued, now),
        "pending": _waiting(pending, now),
        "devices": registered,
        "presence": Online(online),
        "dispatchers": [_dispatcher(beat, now) for beat in beats],
    }


def queue(connection: Transaction) -> dict[str, tuple[int, int | None]]:
    """By lane, the empty ones too: how many calls wait to be planned, and when the oldest came."""
    lanes = dict.fromkeys((intake.STATUS_LANE, *intake.LANES, intake.NOTIFY_LANE), (0, None))
    return {**lanes, **inbox.depth(connection)}


def paused(beats: Iterable[Health], now: int) -> dict[str, bool]:
    """By provider: whether a dispatcher that is alive sends it nothing, or only tries whether it may again."""
    found: dict[str, bool] = {}
    for beat in beats:
        providers = _said(beat).get("providers", {}) if _is_alive(beat, now) else {}
        for name, figures in providers.items():
            found[name] = found.get(name, False) or figures.get("state") in ("paused", "probing")
    return found


def any_alive(beats: Iterable[Health], now: int) -> bool:
    """Whether a dispatcher runs."""
    return any(_is_alive(beat, now) for beat in beats)


def dispatcher_runs(database: Database, now: int) -> bool:
    """Whether a dispatcher has been heard of lately."""
    with database.read() as connection:
        return any_alive(health.beats(connection), now)


def _is_alive(beat: Health, now: int) -> bool:
    return now - beat.beat_at <= ALIVE_WITHIN


def _waiting(found: Mapping[str, tuple[int, int | None]], now: int) -> dict[str, Waiting]:
    return {
        name: Waiting(count, None if oldest is None else _seconds(now - oldest))
        for name, (count, oldest) in found.items()
    }


def _seconds(ms: int) -> float:
    return max(0, ms) / 1000


def _said(beat: Health) -> dict[str, Any]:
    said = msgspec.json.decode(beat.health)
    return said if isinstance(said, dict) else {}


def _dispatcher(beat: Health, now: int) -> dict[str, Any]:
    return {
        **_said(beat),
        "owner": beat.owner,
        "alive": _is_alive(beat, now),
        "beat_seconds_ago": _seconds(now - beat.beat_at),
    }
