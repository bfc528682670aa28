"""The webhook and the health pages over a real SQLite store, without sockets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flask import Blueprint
from werkzeug.test import TestResponse

from app.bounds import EVERY, Bounds
from app.config import networks
from app.dispatch.steps import Rules
from app.dispatch.taking import Take, take
from app.intake import NOW_LANE, Intake
from app.model import Connections
from app.plan import Policy
from app.relay import Target
from app.render import Style
from app.store import inbox, presence, relay
from app.store.opening import open_database
from app.store.rows import Event
from app.store.writer import GroupCommit
from app.web import create_app
from app.web.webhook import Origin

NOW = 1_785_398_400_000
MAX_BODY = 1_000_000
RULES = Rules(Policy(), Style(types={}, templates={}))


class Bridge:
    """Takes webhooks. now: the clock of the health pages. pokes: how often the dispatcher was poked.

    bounds: wide enough for all tests that do not narrow them.
    """

    def __init__(
        self,
        folder: Path,
        secret: bytes = b"",
        allow_from: tuple[str, ...] = ("loopback", "private"),
        trusted_proxies: tuple[str, ...] = (),
        notify_after: int | None = None,
        targets: Sequence[Target] = (),
    ) -> None:
        self.database = open_database(folder, durability="normal")
        self.now = NOW
        self.pokes = 0
        origin = Origin(secret, networks(allow_from, "", ""), networks(trusted_proxies, "", ""))
        self._seconds = 0.0
        self.bounds = Bounds(self.database, folder, 1, 1_000_000, lambda: self._seconds)
        intake = Intake(GroupCommit(self.database), self._poke, notify_after, targets, self.bounds)
        empty = Blueprint("admin", __name__)
        app = create_app(self.database, intake, origin, MAX_BODY, empty, lambda: self.now, self.bounds)
        self.client = app.test_client()

    def look_again(self) -> None:
        """Let the time pass after which the bridge looks anew whether it is full."""
        self._seconds += EVERY

    def _poke(self) -> None:
        self.pokes += 1

    def post(self, event: str, body: bytes, path: str = "/webhook", **more: Any) -> TestResponse:
        return self.client.post(f"{path}?event={event}", data=body, **more)

    def call(self, url: str, body: bytes = b"[]", **more: Any) -> int:
        """The status of the answer."""
        return self.client.post(url, data=body, **more).status_code

    def take(self, now: int = NOW, lane: str = NOW_LANE) -> Take[Event]:
        """What a dispatcher takes from the inbox: statuses are applied, messages claimed."""
        return take(self.database, lane, 1_000, 10**9, "me", 1_000, now, RULES)

    def kept(self) -> list[Event]:
        """All messages in the inbox."""
        return self.take().claimed

    def depth(self) -> dict[str, int]:
        with self.database.read() as connection:
            return {lane: count for lane, (count, _) in inbox.depth(connection).items()}

    def copies(self, target: Target) -> dict[str, list[bytes]]:
        """What waits for a target, by event."""
        with self.database.read() as connection:
            return {
                kind: [event.body for event in relay.head(connection, target.name, kind, 1_000, 1 << 30)]
                for kind in relay.kinds(connection, target.name, 1_000, "", ())
            }

    def presence(self, *uids: str) -> dict[str, Connections]:
        with self.database.read() as connection:
            return presence.of_users(connection, uids)

    def online(self, *uids: str) -> set[str]:
        found = self.presence(*uids)
        return {uid for uid, known in found.items() if any(each.online for each in known.values())}
