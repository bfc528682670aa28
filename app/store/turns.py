"""Channels take turns: who is next in each, found without reading all that waits.

Where more waits than is taken at once, half of the places go to what has waited longest and half to the first of each
channel, from a random one on. So one channel's flood delays only itself, and within a channel nothing is overtaken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, and_, func, literal, select

FIRST = -(2**63)
"""Below every channel."""
ASKED = 64
"""Channels up to which each is asked for its share; where there are more, each gives its first row alone."""
LOOKED = 200
"""Rows of a channel that are looked through for those that may be taken; what lies behind waits for its time."""


def first_of_channels(
    connection: Connection,
    channel: Column[int],
    row_id: Column[int],
    lane: Sequence[ColumnElement[bool]],
    free: Sequence[ColumnElement[bool]],
    start: int,
    places: int,
) -> list[int]:
    """The ids of the first rows of each channel from channel `start` on, shared out among so many places.

    lane: what an index that goes on with `channel` and `row_id` begins with. free: what may be taken of that.
    """
    found = _walk(connection, channel, row_id, lane, free, start, places)
    if len(found) < places and start > FIRST:
        seen = {name for name, _ in found}
        again = _walk(connection, channel, row_id, lane, free, FIRST, places - len(found))
        found += [pair for pair in again if pair[0] not in seen]
    share = places // max(1, len(found))
    if share < 2 or len(found) > ASKED:
        return [least for _, least in found]
    ids: list[int] = []
    for name, _ in found:
        first = _first(row_id, (*lane, channel == name), free).subquery()
        rows = select(first.c.id).where(first.c.free).limit(share)
        ids += connection.execute(rows).scalars()
    return ids


def _walk(
    connection: Connection,
    channel: Column[int],
    row_id: Column[int],
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
    first = _first(row_id, (*lane, channel == walk.c.channel), free).correlate(walk).subquery()
    head = select(first.c.id).where(first.c.free).limit(1).scalar_subquery()
    rows = connection.execute(select(walk.c.channel, head).where(walk.c.channel.is_not(None)))
    return [(name, first) for name, first in rows if first is not None]


def _first(
    row_id: Column[int], of_channel: Sequence[ColumnElement[bool]], free: Sequence[ColumnElement[bool]]
) -> Select[int, bool]:
    """The first rows of a channel, in their order, and whether each may be taken.

    Not all of them: after a fault a great many of one channel may be put off, and would be walked with each claim.
    """
    query = select(row_id.label("id"), and_(*free).label("free"))
    return query.where(*of_channel).order_by(row_id).limit(LOOKED)
