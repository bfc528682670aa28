"""From what `user.onlinestatus` said, and now: is a user online? Times are UNIX milliseconds."""

from __future__ import annotations

from enum import Enum

from msgspec.structs import replace

from app.model import APP, Connection, Connections, Status

STALE_WITHIN = 15_000
"""How long a repeat of an older event can arrive after a newer one: v3 tries three times with five seconds each.

Beyond that a connection id says nothing: the server counts from 1 again when it restarts.
"""


class Looks(Enum):
    """ONLINE is believed; DOUBTFUL is said, but too old, or in too odd an order, to be believed without asking."""

    OFFLINE = "offline"
    ONLINE = "online"
    DOUBTFUL = "doubtful"


def apply(known: Connections, status: Status, now: int) -> Connections:
    """The connections after one status. Applying it again changes nothing; a late older one makes nobody online."""
    before = known.get(status.device_flag)
    if _is_stale(before, status, now):
        return known
    after = dict(known)
    online = status.online if status.device_count is None else status.device_count > 0
    said = _step(before, status, online, now)
    if online and status.online and not _is_sure(before) and _may_be_older(known, status, now):
        said = replace(said, count=0)
    elif not online and before is not None and _may_be_outlived(before, status, now):
        said = replace(said, online=True, since=before.since, opened=before.opened)
    after[status.device_flag] = said
    if status.total_count is not None and status.device_count is not None:
        # The counts speak of all kinds of device, so they also end a kind whose own "offline" was never posted.
        others_online = status.total_count > status.device_count
        if not others_online:
            for flag in after.keys() - {status.device_flag}:
                after[flag] = _offline(after[flag], now)
    return after


def _is_stale(before: Connection | None, status: Status, now: int) -> bool:
    if before is None or status.connection is None or not _closed_lately(before, now):
        return False
    if status.online:
        return before.closed == status.connection
    # It speaks of others still open, but all have closed since: an "offline" makes nobody online.
    return not before.online and bool(status.device_count)


def _may_be_older(known: Connections, status: Status, now: int) -> bool:
    """Whether an "online" may have been overtaken by the end of its own connection, which v3 need not have posted."""
    closed = [c.closed for c in known.values() if c.closed is not None and _closed_lately(c, now)]
    if status.connection is None or not closed:
        return False
    # The first connection after the last one closed would have been counted as the only one.
    counted_others = (status.total_count or 0) > 1 and not any(_is_sure(c) for c in known.values())
    return status.connection < max(closed) or counted_others


def _may_be_outlived(before: Connection, status: Status, now: int) -> bool:
    """Whether an "offline" may have been overtaken by a newer connection, the only one when it came."""
    return (
        before.online
        and before.count is not None
        and before.count <= 1
        and before.opened is not None
        and status.connection is not None
        and status.connection < before.opened
        and now - before.seen < STALE_WITHIN
    )


def _closed_lately(connection: Connection, now: int) -> bool:
    return connection.closed is not None and now - connection.closed_at < STALE_WITHIN


def _is_sure(connection: Connection | None) -> bool:
    return connection is not None and connection.online and connection.count != 0


def _step(before: Connection | None, status: Status, online: bool, now: int) -> Connection:
    same = before is not None and before.online == online
    since = before.since if before is not None and same else now
    opened = before.opened if before is not None else None
    closed, closed_at = (before.closed, before.closed_at) if before is not None else (None, 0)
    if status.online:
        opened = status.connection
    else:
        if opened == status.connection:
            opened = None  # an older one may have outlived it, and its close will be no late one
        if status.connection is None or closed != status.connection:
            overtaken = before is not None and _closed_lately(before, now) and _is_before(status.connection, closed)
            closed, closed_at = closed if overtaken else status.connection, now
        elif closed is not None and before is not None and not _closed_lately(before, now):
            closed_at = now  # no repeat comes so late: the server restarted, and counts its connections anew
    count = status.device_count
    return Connection(
        online=online, since=since, seen=now, opened=opened, count=count, closed=closed, closed_at=closed_at
    )


def _is_before(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one < other


def _offline(connection: Connection, now: int) -> Connection:
    if not connection.online:
        return connection
    return Connection(
        online=False, since=now, seen=now, count=0, closed=connection.closed, closed_at=connection.closed_at
    )


def correct(known: Connections, online_flags: frozenset[int], now: int) -> Connections:
    """The connections after the server itself was asked and named the kinds of device that are online."""
    after: Connections = {}
    for flag in known.keys() | online_flags:
        before = known.get(flag)
        online = flag in online_flags
        if before is not None and not online:
            after[flag] = _offline(before, now)
        else:
            since = before.since if before is not None and before.online == online else now
            after[flag] = Connection(online=online, since=since, seen=now)
    return after


def looks(known: Connections, suppress: str, ttl: int, now: int) -> Looks:
    """How the user looks to `presence.suppress` (`any`, `app` or `none`); `ttl` in milliseconds."""
    if suppress == "none":
        return Looks.OFFLINE
    relevant = [c for flag, c in known.items() if c.online and (suppress == "any" or flag == APP)]
    if not relevant:
        return Looks.OFFLINE
    if any(_is_sure(c) and now - c.seen <= ttl for c in relevant):
        return Looks.ONLINE
    return Looks.DOUBTFUL
