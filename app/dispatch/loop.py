"""The dispatcher: starts its parts, renews its leases, says how it is, and stops in order."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from itertools import accumulate
from typing import Any

import msgspec
import structlog

from app.clock import now_ms
from app.dispatch.ask import Ask
from app.dispatch.incoming import Incoming
from app.dispatch.pace import PACE_EVERY, Load
from app.dispatch.relay import Relay
from app.dispatch.rescue import Rescue
from app.dispatch.sender import Answers, Sender
from app.dispatch.settler import Settler
from app.dispatch.shared import LEASE, Shared
from app.dispatch.steps import Rules
from app.dispatch.tidy import Tidy
from app.dispatch.waiting import Waiting
from app.intake import LANES
from app.model import Outcome
from app.relay import Target
from app.settle import Limits
from app.store import deliveries, health, inbox, leases
from app.store.dialect import Database, Transaction
from app.store.rows import Health
from providers.kit.base import Provider, Send

log = structlog.get_logger()

RENEW_EVERY = 10.0
BEAT_EVERY = 2.0
TIDY_EVERY = 60.0
GRACE = 8.0
"""Seconds for what is under way when the dispatcher is told to stop."""
PARTS = (*LANES, "due", "held")


class Dispatcher:
    """One dispatcher process. `owner` is its name in leases; nobody else may run under it at the same time."""

    def __init__(
        self,
        *,
        database: Database,
        providers: Mapping[str, Provider],
        rules: Rules,
        limits: Limits,
        retention: int,
        quarantine: int,
        owner: str,
        poke: socket.socket,
        ask: Ask | None,
        targets: Sequence[tuple[Target, Send]] = (),
    ) -> None:
        self._shared = Shared(database, providers, rules, limits, owner, PARTS)
        self._settler = Settler(self._shared)
        self._load = Load(_cores())
        self._shared.senders = {
            name: Sender(provider, limits, self._settler.settled, self._shared.room.set, self._settler.alarmed)
            for name, provider in providers.items()
        }
        self._waiting = Waiting(self._shared, self._settler, ask)
        self._rescuing = Rescue(self._shared, ask)
        self._relay = Relay(self._shared, targets)
        self._tidy = Tidy(self._shared, retention, quarantine)
        self._poke = poke
        self._started = now_ms()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Work until `stop`; raises what a part of it failed with, since nothing here may go on half alive."""
        if not await self._begin():
            self._shared.close()
            return
        asyncio.get_running_loop().add_reader(self._poke, self._poked)
        settler = asyncio.create_task(self._settler.run())
        parts: list[Coroutine[Any, Any, None]] = [
            *(Incoming(self._shared, self._settler, lane).run() for lane in LANES),
            self._waiting.run_due(),
            self._waiting.run_held(),
            self._rescuing.run(),
            *self._relay.parts(),
            self._every(RENEW_EVERY, self._renew),
            self._every(BEAT_EVERY, self._beat),
            self._every(TIDY_EVERY, self._tidy.round),
            self._every(PACE_EVERY, self._keep_pace),
        ]
        tasks: list[asyncio.Task[Any]] = [settler, *(asyncio.create_task(part) for part in parts)]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            failed = [error for task in tasks if task.done() and (error := task.exception())]
            try:
                # In order after a failure too: what has been sent meanwhile would be sent again.
                await self._wind_up(tasks[1:], settler)
            finally:
                if failed:
                    raise failed[0]
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            asyncio.get_running_loop().remove_reader(self._poke)
            self._shared.close()

    async def _begin(self) -> bool:
        """Free what an earlier process under this name held; False where it is told to stop before that is possible."""
        stopping = asyncio.create_task(self._stopping.wait())
        taking = asyncio.create_task(self._shared.write(self._take_over))
        await asyncio.wait([taking, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not taking.done():
            taking.cancel()
            return False
        events, rows, again = taking.result()
        log.info(
            "dispatcher started",
            action="start",
            owner=self._shared.owner,
            freed_events=events,
            freed_pushes=rows,
            tried_again=again,
        )
        return True

    def stop(self) -> None:
        self._stopping.set()

    async def _wind_up(self, parts: Sequence[asyncio.Task[None]], settler: asyncio.Task[None]) -> None:
        """Stop claiming, let what is under way end, write it down, give the rest back."""
        self._shared.patience = time.monotonic() + GRACE
        for task in parts:
            task.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await asyncio.gather(*(sender.stop(GRACE) for sender in self._shared.senders.values()), self._relay.stop())
        self._settler.end()
        await asyncio.gather(settler, return_exceptions=True)
        await self._settler.flush()

        def give_back() -> None:
            with self._shared.db.write() as connection:
                self._free(connection)
                leases.give_back(connection, self._shared.owner)
                health.gone(connection, self._shared.owner)

        await self._shared.write(give_back)
        log.info("dispatcher stopped", action="stop", owner=self._shared.owner)

    def _take_over(self) -> tuple[int, int, int]:
        with self._shared.db.write() as connection:
            deliveries.forget_unread(connection)
            return *self._free(connection), inbox.try_again(connection)

    def _free(self, connection: Transaction) -> tuple[int, int]:
        owner = self._shared.owner
        return inbox.free(connection, owner), deliveries.free(connection, owner, now_ms())

    def _poked(self) -> None:
        while True:
            try:
                self._poke.recv(16)
            except BlockingIOError:
                break
        for name in (*LANES, "due"):
            self._shared.wake[name].set()
        self._relay.poked()

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await work()
            await asyncio.sleep(seconds)

    async def _renew(self) -> None:
        def write() -> tuple[list[str], int]:
            until = now_ms() + LEASE
            with self._shared.db.write() as connection:
                inbox.renew(connection, self._shared.owner, until)
                deliveries.renew(connection, self._shared.owner, until)
                targets = self._relay.lease(connection, until)
            return targets, until

        self._relay.hold(*await self._shared.write(write))

    async def _beat(self) -> None:
        text = msgspec.json.encode(self.health()).decode()

        def write() -> None:
            with self._shared.db.write() as connection:
                health.beat(connection, Health(self._shared.owner, now_ms(), text))

        await self._shared.write(write)

    async def _keep_pace(self) -> None:
        at, senders = time.monotonic(), self._shared.senders.values()
        full = self._load.is_full(time.process_time(), at)
        crowded = full and any(sender.is_waited_for(at) for sender in senders)
        for sender in senders:
            sender.keep_pace(crowded, at)

    def health(self) -> dict[str, Any]:
        """How the providers are, and what became of pushes since the start; for `GET /admin/v1/stats`."""
        now = now_ms()
        providers = {name: self._provider_health(name, sender, now) for name, sender in self._shared.senders.items()}
        users = {outcome: n for (provider, outcome), n in self._settler.tally.items() if provider == ""}
        return {
            "started_at": self._started,
            "planned": self._settler.planned,
            "providers": providers,
            "suppressed": users.get(Outcome.SUPPRESSED, 0),
            "skipped": users.get(Outcome.SKIPPED, 0),
        }

    def _provider_health(self, name: str, sender: Sender, now: int) -> dict[str, Any]:
        outcomes = {outcome: n for (provider, outcome), n in self._settler.tally.items() if provider == name}
        pause, answers = sender.pause, sender.answers
        return {
            "state": "ok" if pause is None else "paused" if now < pause.until else "probing",
            "reason": "" if pause is None else pause.reason,
            "paused_since": None if pause is None else sender.paused_since,
            "next_probe_at": None if pause is None else pause.until,
            "sent": outcomes.get(Outcome.SENT, 0),
            "failed": sum(n for outcome, n in outcomes.items() if outcome in _FAILED),
            "retried": outcomes.get(Outcome.RETRYING, 0),
            "reasons": self._settler.reasons.get(name, {}),
            "inflight": sender.inflight,
            "queued": sender.queued,
            "mean_answer_ms": round(1000 * answers.seconds / answers.count, 1) if answers.count else None,
            "answers": {
                "le": Answers.BOUNDS,
                "counts": list(accumulate(answers.counts[:-1])),
                "count": answers.count,
                "sum": answers.seconds,
            },
            "tokens_doubted": sender.doubts_tokens,
            "token_refreshes": sender.provider.credential.renewals if sender.provider.credential else 0,
        }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


_FAILED = frozenset({Outcome.INVALID_TOKEN, Outcome.REJECTED, Outcome.DEAD})
