"""Channels take turns: who is next in each, found without reading all that waits.

Where more waits than is taken at once, half of the places go to what has waited longest and half to the first of each
channel, from a random one on. So one channel's flood delays only itself, and within a channel nothing is overtaken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, and_, func, literal, select

FIRST = -(2**63)
"""Below every channel."""


def first_of_channels(
    connection: Connection,
    channel: Column[int],
    first: Column[int],
    lane: Sequence[ColumnElement[bool]],
    free: Sequence[ColumnElement[bool]],
    start: int,
    limit: int,
) -> list[tuple[int, int]]:
    """(channel, least `first`) of up to `limit` channels from `start` on, and from the beginning where they end before.

    lane: what an index that goes on with `channel` and `first` begins with. free: what may be taken of that.
    """
    found = _walk(connection, channel, first, lane, free, start, limit)
    if len(found) < limit and start > FIRST:
        seen = {name for name, _ in found}
        again = _walk(connection, channel, first, lane, free, FIRST, limit - len(found))
        found += [pair for pair in again if pair[0] not in seen]
    return found


def _walk(
    connection: Connection,
    channel: Column[int],
    first: Column[int],
    lane: Sequence[ColumnElement[bool]],
    free: Sequence[ColumnElement[bool]],
    start: int,
    limit: int,
) -> list[tuple[int, int]]:
    """From channel to channel by the index: each step costs the same, however much waits in a channel."""
    least: Any = select(func.min(channel)).where(*lane, channel >= start).scalar_subquery()
    walk = select(least.label("channel"), literal(1).label("step")).cte("walk", recursive=True)
    beyond = select(func.min(channel)).where(*lane, channel > walk.c.channel).scalar_subquery()
    going_on = and_(walk.c.channel.is_not(None), walk.c.step < limit)
    walk = walk.union_all(select(beyond, walk.c.step + 1).where(going_on))
    head = select(func.min(first)).where(*lane, channel == walk.c.channel, *free).scalar_subquery()
    rows = connection.execute(select(walk.c.channel, head).where(walk.c.channel.is_not(None)))
    return [(name, least_first) for name, least_first in rows if least_first is not None]
