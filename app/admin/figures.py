"""How the bridge is doing: what waits, who is there, what the dispatchers say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from app import intake
from app.relay import label
from app.store import deliveries, devices, health, inbox, presence, relay
from app.store.dialect import Database, Transaction
from app.store.rows import Health

K = TypeVar("K")

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


class ProviderState(Struct, frozen=True):
    """state: ok, probing (single pushes are tried) or paused; reason: why not ok.

    paused_since, next_probe_at: UNIX milliseconds; null where it is ok, or where it is not said.
    """

    state: str
    reason: str
    paused_since: int | None
    next_probe_at: int | None


class Stats(Struct, frozen=True, kw_only=True):
    """queue: accepted calls by lane, and under `failed` those set aside that could not be worked on.

    pending: pushes to be taken up again, by outcome. devices: by provider.
    providers: as the dispatchers that are alive say, the worst where they differ.
    relay: events to be passed on, by target; none where nothing waits.
    """

    queue: dict[str, Waiting]
    pending: dict[str, Waiting]
    devices: dict[str, int]
    presence: Online
    providers: dict[str, ProviderState]
    relay: dict[str, Waiting]
    dispatchers: list[Dispatcher]


def stats(database: Database, now: int) -> dict[str, Any]:
    """The figures, in the form of Stats."""
    with database.read() as connection:
        queued = queue(connection)
        pending = deliveries.pending(connection)
        registered = devices.count(connection)
        online = presence.online(connection)
        targets = _grouped(relay.depth(connection), lambda stream: stream[0])
        beats = health.beats(connection)
    return {
        "queue": _waiting(queued, now),
        "pending": _waiting(pending, now),
        "devices": registered,
        "presence": Online(online),
        "providers": providers(beats, now),
        "relay": _waiting(targets, now),
        "dispatchers": [_dispatcher(beat, now) for beat in beats],
    }


def queue(connection: Transaction) -> dict[str, tuple[int, int | None]]:
    """By lane, the empty ones too: how many calls wait to be planned, and when the oldest came."""
    lanes = dict.fromkeys((intake.STATUS_LANE, *intake.LANES, intake.NOTIFY_LANE), (0, None))
    return {**lanes, **inbox.depth(connection)}


def said(beats: Iterable[Health], now: int) -> dict[str, dict[str, Any]]:
    """By owner: what the dispatchers that are alive say of themselves."""
    return {beat.owner: _said(beat) for beat in beats if _is_alive(beat, now)}


def by_provider(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name: what one dispatcher says of its providers."""
    found = figures.get("providers")
    return {name: each for name, each in found.items() if isinstance(each, dict)} if isinstance(found, dict) else {}


def providers(beats: Iterable[Health], now: int) -> dict[str, ProviderState]:
    """How the providers are."""
    worst: dict[str, ProviderState] = {}
    for figures in said(beats, now).values():
        for name, each in by_provider(figures).items():
            state = ProviderState(
                str(each.get("state", "ok")),
                str(each.get("reason") or ""),
                _whole(each.get("paused_since")),
                _whole(each.get("next_probe_at")),
            )
            if name not in worst or _BADNESS.get(state.state, 0) > _BADNESS.get(worst[name].state, 0):
                worst[name] = state
    return worst


_BADNESS = {"probing": 1, "paused": 2}


def _whole(value: object) -> int | None:
    return value if type(value) is int else None


def relayed(connection: Transaction) -> dict[tuple[str, str], tuple[int, int]]:
    """By target, and event as metrics call it: how many wait to be passed on, and when the oldest came."""
    return _grouped(relay.depth(connection), lambda stream: (stream[0], label(stream[1])))


def _grouped(
    streams: Mapping[relay.Stream, tuple[int, int]], key: Callable[[relay.Stream], K]
) -> dict[K, tuple[int, int]]:
    found: dict[K, tuple[int, int]] = {}
    for stream, (count, oldest) in streams.items():
        before, since = found.get(key(stream), (0, oldest))
        found[key(stream)] = before + count, min(since, oldest)
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
