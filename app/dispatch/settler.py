"""Turns what became of pushes into rows, and writes them in batches: whatever has gathered, one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog

from app import metrics
from app.clock import now_ms
from app.dispatch import settling
from app.dispatch.shared import Shared
from app.dispatch.work import Batch, Job, Progress, Restore
from app.model import SUCCESS_KEPT_EVERY, Outcome
from app.settle import Dead, Done, DropToken, RetryAt, Settled, Wait
from app.store.dialect import Unavailable
from app.store.rows import Delivery, Drop, Touch

log = structlog.get_logger()

GATHER, ENOUGH = 0.02, 500
"""Seconds that rows gather before they are written, unless there are enough of them."""
BEHIND, URGENT_BEHIND = 1_000, 5_000
"""Rows that wait to be written from which on no more are planned: of what can wait, and of what is urgent."""
REASONS = 30
"""Reasons counted for one outcome of a provider; a vendor may make up any number."""


class Settler:
    """Collects outcomes and settles them.

    planned: recipients and devices that were decided on. tally: outcomes since the start by (provider, outcome).
    reasons: how often by provider, outcome and reason.
    """

    def __init__(self, shared: Shared) -> None:
        self.planned = 0
        self.tally: dict[tuple[str, str], int] = {}
        self.reasons: dict[str, dict[str, dict[str, int]]] = {}
        self._shared = shared
        self._batch = Batch()
        self._writing = Batch()
        self._some = asyncio.Event()
        self._active: dict[int, list[Progress]] = {}
        self._reported: dict[tuple[str, str], float] = {}
        self._ending = False
        # An alert asks for their increase, and a series that begins with a burst has none.
        for provider in ("", *shared.providers):
            metrics.OUTCOMES.labels(provider, Outcome.DEAD.value)

    def is_behind(self, urgent: bool) -> bool:
        """Whether more waits to be written than is worth planning on."""
        return len(self._batch) + len(self._writing) > (URGENT_BEHIND if urgent else BEHIND)

    def end(self) -> None:
        """Have `run` write what there is and return."""
        self._ending = True
        self._some.set()

    async def run(self) -> None:
        while not self._ending:
            await self._some.wait()
            if len(self._batch) < ENOUGH:
                # Commits cost the same for one row and for many; a moment later there are many, under load.
                await asyncio.sleep(GATHER)
            await self.flush()

    def alarmed(self, provider: str, reasons: Sequence[str], since: int) -> None:
        """Refusals for these reasons were our own fault: devices that they took since then come back."""
        self._batch.restores.append(Restore(provider, reasons, since))
        self._some.set()

    def begin(self, progress: Progress) -> bool:
        """Note that an event is worked on; False where another one for the same recipients is under way."""
        message_id = progress.parsed.message.message_id
        others = self._active.get(message_id, ())
        if others:
            uids = set(progress.parsed.recipients.uids)
            if any(uids.intersection(other.parsed.recipients.uids) for other in others):
                return False
        self._active.setdefault(message_id, []).append(progress)
        return True

    def settled(self, job: Job, decision: Settled) -> None:
        """One push has an outcome, or is to be tried again."""
        now = now_ms()
        event_id = job.parsed.event_id
        match decision:
            case Done(outcome, reason, provider_id):
                row = job.row(outcome, now, reason, provider_id=provider_id)
                device = job.device
                if outcome is Outcome.SENT and now - device.seen_at > SUCCESS_KEPT_EVERY:
                    touch = Touch(device.uid, device.device_id, device.provider, device.token, now)
                    self._batch.touches.append(touch)
            case RetryAt(at, reason):
                row = job.row(Outcome.RETRYING, now, reason, due_at=at, event_id=event_id)
            case Wait(until, reason):
                outcome = Outcome.RETRYING if job.attempts else Outcome.QUEUED
                row = job.row(outcome, now, reason, due_at=until, event_id=event_id)
            case Dead(reason):
                row = job.row(Outcome.DEAD, now, reason, event_id=event_id)
            case DropToken(reason, before):
                row = job.row(Outcome.INVALID_TOKEN, now, reason)
                device = job.device
                named = (device.uid, device.device_id, device.provider, device.token)
                self._batch.drops.append(Drop(*named, before, reason, row.message_id, event_id))
        self.add(row, event_id)
        if job.progress is not None:
            job.progress.pending -= 1
            self.finish(job.progress)

    def add(self, row: Delivery, event_id: int) -> None:
        """One row to write; `event_id`: the event whose content it may no longer need."""
        self._batch.add(row, event_id)
        key = (row.provider, row.outcome.value)
        self.tally[key] = self.tally.get(key, 0) + 1
        if row.reason:
            self._note_reason(row)
        self._some.set()

    def _note_reason(self, row: Delivery) -> None:
        reasons = self.reasons.setdefault(row.provider, {}).setdefault(row.outcome.value, {})
        reason = row.reason if row.reason in reasons or len(reasons) < REASONS else "other"
        reasons[reason] = reasons.get(reason, 0) + 1

    def finish(self, progress: Progress) -> None:
        """Settle the event itself when all of it is planned and nothing of it is under way."""
        if not progress.planned or progress.pending or progress.finished:
            return
        progress.finished = True
        self._batch.ended.append(progress)
        if progress.failed:
            self._batch.given_back.append(progress)
        else:
            self._batch.finished.append(progress.parsed.event_id)
        self._some.set()

    async def flush(self) -> None:
        """Write what has gathered."""
        shared = self._shared
        self._some.clear()
        batch, self._batch = self._batch, Batch()
        if not batch:
            return
        self._writing = batch
        waits = any(row.due_at is not None for row in (*batch.new, *batch.changed))
        try:
            if batch.drops:
                await shared.read(lambda: settling.once_more(shared.db, batch, now_ms()))
            lost = sum([await self._settle(part) for part in batch.cut(settling.SETTLED_TOGETHER)])
        except Unavailable:
            self._batch = batch + self._batch
            raise
        finally:
            self._writing = Batch()
        shared.room.set()
        for progress in batch.ended:
            self._forget(progress)
        if lost:
            log.warning("somebody else holds what was settled here", action="settle", owner=shared.owner, rows=lost)
        self._report()
        if waits:
            shared.wake["due"].set()
            shared.wake["held"].set()

    async def _settle(self, batch: Batch) -> int:
        """Write a batch. What cannot be written, whatever the reason, must not keep the rest from it."""
        shared = self._shared
        try:
            lost = await shared.write(lambda: settling.settle(shared.db, batch, shared.owner, shared.rules, now_ms))
            for one in batch.restores:
                # Each step waits for its turn: there may be thousands of devices, and calls to be planned.
                while await shared.write(partial(settling.restore, shared.db, one)):
                    pass
            return lost
        except Unavailable:
            raise
        except Exception:
            parts = batch.parts()
            log.exception("outcomes not written", action="settle", rows=len(parts))
            if len(parts) > 1:
                return sum([await self._settle(part) for part in parts])
            return await self._settle(rest) if (rest := batch.bare()) != batch else 0

    def _forget(self, progress: Progress) -> None:
        """Not before its outcomes are written: a repeat that comes now finds them."""
        message_id = progress.parsed.message.message_id
        active = self._active[message_id]
        active.remove(progress)
        if not active:
            del self._active[message_id]

    def _report(self) -> None:
        """Hand what was counted since the last time to the metrics: once a batch, not once a push."""
        current: dict[tuple[str, str], float] = dict(self.tally)
        for (provider, outcome), count in self.tally.items():
            grown = count - self._reported.get((provider, outcome), 0)
            if grown:
                metrics.OUTCOMES.labels(provider, outcome).inc(grown)
        self._reported = current
