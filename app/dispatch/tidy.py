"""Forgets what nobody may look up any more, and ends what waits for a provider that is gone, a little at a time.

Webhooks wait for every transaction, and what waits here may be any number of rows: each step looks at as many as take a
few milliseconds, and lets others write before the next.
"""

from __future__ import annotations

from functools import partial

from app.clock import now_ms
from app.dispatch.shared import Shared
from app.events import OFFLINE
from app.intake import LANES
from app.store import deliveries, devices, health, inbox, keys
from app.store import presence as presence_store

ROWS, WALKED = 200, 1_000
"""Looked at in one step: of what is about to go, and of what seldom is."""
ANEW = 60
"""Rounds after which outcomes are looked at from the oldest on again."""
OFFLINE_KNOWN = 30 * 86_400_000
"""Milliseconds that it is remembered that a user is offline: a rescue needs to have been told so, where the server is
not asked, and of most users nothing is said for days."""


class Tidy:
    """retention: milliseconds that outcomes are kept. quarantine: those that dead devices are kept."""

    def __init__(self, shared: Shared, retention: int, quarantine: int) -> None:
        self._shared = shared
        self._retention = retention
        self._quarantine = quarantine
        self._rounds = 0
        self._forgotten = deliveries.START
        self._swept = inbox.START
        self._walked = ""

    async def round(self) -> None:
        """Forget all that is old, and look at the next of what is looked at in turn."""
        for step in (self._give_up, self._forget_failed, self._forget_removed):
            while await self._shared.write(step) == ROWS:
                pass
        await self._forget_outcomes()
        await self._shared.write(self._forget_presence)
        await self._shared.write(self._sweep)

    async def _forget_outcomes(self) -> None:
        """From where the last round ended: what waits there ends with the time when it ends, and is new then.

        Save what was decided long before it could be written, which is found now and then.
        """
        place = deliveries.START if self._rounds % ANEW == 0 else self._forgotten
        self._rounds += 1
        while (following := await self._shared.write(partial(self._forget, place))) != place:
            place = following
        self._forgotten = place

    def _give_up(self) -> int:
        with self._shared.db.read() as connection:
            gone = set(deliveries.awaited(connection)) - {"", *self._shared.providers}
        if not gone:
            return 0
        with self._shared.db.write() as connection:
            return deliveries.give_up(connection, sorted(gone), now_ms(), ROWS)

    def _forget_failed(self) -> int:
        with self._shared.db.write() as connection:
            return inbox.forget_failed(connection, self._before(), ROWS)

    def _forget_removed(self) -> int:
        with self._shared.db.write() as connection:
            return devices.forget_removed(connection, now_ms() - self._quarantine, ROWS)

    def _forget(self, place: tuple[int, int]) -> tuple[int, int]:
        with self._shared.db.write() as connection:
            # Of a call that is not planned whole, a repeat of what was sent must still be known as one.
            oldest = inbox.oldest(connection, LANES, OFFLINE)
            before = self._before() if oldest is None else min(self._before(), oldest)
            return deliveries.forget(connection, before, ROWS, place)

    def _forget_presence(self) -> None:
        before = now_ms() - max(self._shared.rules.policy.ttl, OFFLINE_KNOWN)
        with self._shared.db.write() as connection:
            walked = presence_store.forget(connection, before, WALKED, self._walked)
        self._walked = walked

    def _sweep(self) -> None:
        with self._shared.db.write() as connection:
            health.forget(connection, now_ms())
            keys.forget_unused(connection)
            swept = inbox.sweep_next(connection, self._swept, WALKED)
        self._swept = swept

    def _before(self) -> int:
        return now_ms() - self._retention
