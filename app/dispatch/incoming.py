"""Messages that came with a webhook: claimed, planned a slice at a time, handed to the senders."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest

import structlog

from app import metrics
from app.clock import now_ms
from app.dispatch import steps, taking
from app.dispatch.sender import SLICE
from app.dispatch.settler import Settler
from app.dispatch.shared import LEASE, POLL, Shared
from app.dispatch.work import Progress, parse
from app.intake import BULK_LANE, NORMAL_LANE, NOW_LANE
from app.model import Lane
from app.store import deliveries, inbox
from app.store.rows import Event

log = structlog.get_logger()

CLAIM = {NOW_LANE: (500, 4_000), NORMAL_LANE: (500, 4_000), BULK_LANE: (8, 200_000)}
"""Calls claimed at once, and their weight."""

Slice = list[tuple[Progress, Sequence[str]]]


class Incoming:
    """Plans what one lane of the inbox brings."""

    def __init__(self, shared: Shared, settler: Settler, lane: str) -> None:
        self._shared = shared
        self._settler = settler
        self._lane = lane
        self._sends = Lane[lane.upper()]

    async def run(self) -> None:
        lane = self._lane
        limit, weight = CLAIM[lane]
        while True:
            taken = await self._shared.write(
                lambda: taking.take(
                    self._shared.db, lane, limit, weight, self._shared.owner, LEASE, now_ms(), self._shared.rules
                ),
                urgent=lane == NOW_LANE,
            )
            taking.told(self._shared, taken)
            if taken.claimed:
                await self._plan(taken.claimed)
            elif not taken.more:
                await self._shared.wait(lane, POLL)

    async def _plan(self, claimed: Sequence[Event]) -> None:
        started = [progress for event in claimed if (progress := await self._start(event)) is not None]
        for batch in _slices(started):
            while self._must_wait():
                self._shared.room.clear()
                await self._wait_for_room()
            try:
                await self._plan_slice(batch)
            except Exception:
                # A fault of ours in one message must not keep the others from being sent.
                log.exception("planning failed", action="plan", event_ids=[p.parsed.event_id for p, _ in batch])
                await self._isolate(batch)
        for progress in started:
            progress.planned = True
            self._settler.finish(progress)

    def _must_wait(self) -> bool:
        """Whether what is planned now could not be sent yet, or written down: it would only take memory."""
        if self._settler.is_behind(urgent=self._lane == NOW_LANE):
            return True
        return any(sender.worth_waiting(self._sends, now_ms()) for sender in self._shared.senders.values())

    async def _wait_for_room(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.25):
                await self._shared.room.wait()

    async def _isolate(self, batch: Slice) -> None:
        """Plan the messages of a batch that failed one by one; the one that fails again is given back in the end."""
        for progress, uids in batch:
            try:
                await self._plan_slice([(progress, uids)])
            except Exception:
                log.exception("planning failed", action="plan", event_id=progress.parsed.event_id)
                progress.failed = True

    async def _start(self, event: Event) -> Progress | None:
        """Parse a claimed event; None where it cannot be worked on now."""
        try:
            parsed = parse(event)
        except Exception as error:
            # It was checked when it came, so only a newer version's stricter reading can bring this about.
            log.error("event set aside", action="parse", event_id=event.id, error=taking.said(error))
            await self._set_aside(event)
            return None
        recipients = parsed.recipients
        if recipients.bad:
            metrics.BAD_ELEMENTS.labels(event.kind).inc(recipients.bad)
        if recipients.lost:
            metrics.LOST_LISTS.inc()
            log.error(
                "recipient list incomplete: set channel.subscriberCompressOfCount to 0 in WuKongIM's configuration",
                action="parse",
                message_id=parsed.message.message_id,
                lost=recipients.lost,
                recovered=len(recipients.uids),
            )
        progress = Progress(parsed, event.attempts)
        if not self._settler.begin(progress):
            # Another webhook for the same recipients of the same message is under way: its outcomes will tell.
            await self._plan_later(event)
            return None
        return progress

    async def _set_aside(self, event: Event) -> None:
        def write() -> None:
            with self._shared.db.write() as connection:
                inbox.set_aside(connection, event.id)
                letter = taking.unread(event.id, event.kind[:16], event.received_at, now_ms())
                deliveries.insert_new(connection, [letter])

        await self._shared.write(write)

    async def _plan_later(self, event: Event) -> None:
        def write() -> None:
            with self._shared.db.write() as connection:
                later = now_ms() + 500
                inbox.give_back(connection, event.id, self._shared.owner, later, event.attempts, failed=False)

        await self._shared.write(write)

    async def _plan_slice(self, batch: Slice) -> None:
        pairs = [(progress.parsed, uids) for progress, uids in batch]
        known = await self._shared.read(lambda: steps.look_up(self._shared.db, pairs, decided=True))
        now = now_ms()
        renderer = self._shared.renderer()
        jobs, rows, repeats = steps.plan_new(batch, known, self._shared.rules, renderer, now)
        if repeats:
            metrics.DUPLICATES.inc(repeats)
        for row in rows:
            self._settler.add(row, row.event_id or 0)
        for job in jobs:
            if job.progress is not None:
                job.progress.pending += 1
        self._settler.planned += len(jobs) + len(rows)
        self._shared.submit(jobs, now)


def _slices(started: Sequence[Progress]) -> list[Slice]:
    """Batches of about SLICE recipients: small messages packed together, large ones cut up and taken in turn."""
    cut = [
        [
            (progress, progress.parsed.recipients.uids[at : at + SLICE])
            for at in range(0, len(progress.parsed.recipients.uids), SLICE)
        ]
        for progress in started
    ]
    batches: list[Slice] = []
    size = SLICE
    for turn in zip_longest(*cut):
        for piece in turn:
            if piece is None:
                continue
            if size + len(piece[1]) > SLICE:
                batches.append([])
                size = 0
            batches[-1].append(piece)
            size += len(piece[1])
    return batches
