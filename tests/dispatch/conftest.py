"""A dispatcher in the test's own event loop, on a real database, with providers that the test answers for."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from app import events, plan, render
from app.clock import now_ms
from app.dispatch.ask import Ask
from app.dispatch.loop import Dispatcher
from app.dispatch.steps import Rules
from app.intake import NORMAL_LANE, NOTIFY_LANE, STATUS_LANE
from app.model import Device
from app.relay import Target
from app.settle import Limits
from app.store import deliveries, devices, inbox
from app.store.dialect import Database
from app.store.inbox import Arrival
from app.store.opening import open_database
from app.store.rows import Delivery
from providers.kit.base import Delivered, Notice, Outcome, Provider, Request, Response, Send
from providers.kit.base import Target as Phone

_WORDS = {"default": "default", "hidden": "hidden", "system": "system", "group": "{text}", "text": "{content}"}
TEMPLATES = {"en": _WORDS, "zh": _WORDS | {"hidden": "verborgen"}}
PAYLOAD = base64.b64encode(b'{"type":1,"content":"hello"}').decode()


Wait = Callable[[Callable[[], bool]], Awaitable[None]]


class Stub(Provider):
    """Needs no network. answer: what becomes of a token, awaited if need be. sent: the tokens, in their order."""

    def __init__(self, name: str, answer: Callable[[str], Any] = lambda _: Delivered("id")) -> None:
        self.name = name
        self.local = self._send
        self.sent: list[str] = []
        self._answer = answer
        self._outcomes: dict[str, Outcome] = {}

    def prepare(self, notice: Notice, budget: int | None = None) -> str:
        return notice.body

    def request(self, prepared: str, target: Phone) -> Request:
        return Request("POST", "/" + target.token, {}, b"")

    def read(self, response: Response) -> Outcome:
        return self._outcomes.pop(response.headers["token"])

    def describe(self) -> str:
        return "stub"

    async def _send(self, request: Request) -> Response:
        token = request.path[1:]
        self.sent.append(token)
        answer = self._answer(token)
        self._outcomes[token] = await answer if isinstance(answer, Awaitable) else answer
        return Response(200, {"token": token}, b"")


async def _never(request: Request) -> Response:
    raise AssertionError(request)


class Asked(Ask):
    """Asks a function in place of WuKongIM."""

    def __init__(self, answer: Callable[[Sequence[str]], Awaitable[dict[str, frozenset[int]] | None]]) -> None:
        super().__init__(_never, "", now_ms)
        self._answer = answer  # type: ignore[method-assign]


class Gated(Stub):
    """Answers when `gate` is open. Made within the event loop."""

    def __init__(self, name: str) -> None:
        super().__init__(name, lambda _: self._opened())
        self.gate = asyncio.Event()

    async def _opened(self) -> Outcome:
        await self.gate.wait()
        return Delivered("id")


class Bridge:
    """One database, and dispatchers on it, one after another."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.dispatcher: Dispatcher
        self._next = 0
        self._ends: list[socket.socket] = []

    def register(self, uid: str, provider: str, at: int = 1, locale: str = "") -> None:
        with self.database.write() as connection:
            devices.put(connection, Device(uid, "phone", provider, f"{provider}-{uid}", at, at, locale))

    def devices(self) -> int:
        with self.database.read() as connection:
            return sum(devices.count(connection).values())

    def statuses(self, *statuses: str) -> None:
        self._put(events.STATUS, json.dumps(statuses), STATUS_LANE)

    def message(self, *to: str, lane: str = NORMAL_LANE, at: int | None = None) -> int:
        """Accept a message for these users; its id."""
        self._next += 1
        body = {"message_id": self._next, "from_uid": "ann", "channel_id": "g", "channel_type": 2}
        body |= {"payload": PAYLOAD, "to_uids": to}
        self._put(events.OFFLINE, json.dumps(body), lane, at)
        return self._next

    def notify(self, *messages: dict[str, Any], received_at: int | None = None) -> list[int]:
        """Accept `msg.notify`, due at once, of messages to bob where nothing else is said; their ids."""
        elements = []
        for message in messages:
            self._next += 1
            known = {"message_id": self._next, "from_uid": "ann", "channel_id": "bob", "payload": PAYLOAD}
            elements.append(known | message)
        self._put(events.NOTIFY, json.dumps(elements), NOTIFY_LANE, received_at)
        return [element["message_id"] for element in elements]

    def _put(self, kind: str, body: str, lane: str, received_at: int | None = None) -> None:
        with self.database.write() as connection:
            at = received_at or now_ms()
            inbox.put(connection, [Arrival(kind, body.encode(), at, lane, 1, lane != STATUS_LANE)])

    def depth(self) -> dict[str, int]:
        """How many calls lie in each lane that are not planned yet."""
        with self.database.read() as connection:
            return {lane: count for lane, (count, _) in inbox.depth(connection).items()}

    def rows(self) -> dict[str, Delivery]:
        """What became of each user's last message."""
        with self.database.read() as connection:
            return {row.uid: row for row in reversed(deliveries.trace(connection, limit=1_000))}

    def outcomes_by_message(self) -> dict[tuple[int, str], str]:
        """What became of each message for each user."""
        with self.database.read() as connection:
            rows = deliveries.trace(connection, limit=1_000)
        return {(row.message_id, row.uid): row.outcome.value for row in rows}

    def poke(self) -> None:
        """Wake the running dispatcher, as a web worker does."""
        self._ends[-2].send(b"x")

    def outcomes(self) -> dict[str, str]:
        return {uid: row.outcome.value for uid, row in self.rows().items()}

    def new(
        self,
        *providers: Provider,
        policy: plan.Policy | None = None,
        limits: Limits | None = None,
        ask: Ask | None = None,
        quarantine: int = 604_800_000,
        targets: Sequence[tuple[Target, Send]] = (),
    ) -> Dispatcher:
        style = render.Style(types={0: "text", 1: "text"}, templates=TEMPLATES)
        poke, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        end.setblocking(False)
        self._ends += [poke, end]
        self.dispatcher = Dispatcher(
            database=self.database,
            providers={provider.name: provider for provider in providers},
            rules=Rules(policy or plan.Policy(), style),
            limits=limits or Limits(first_delay=10, max_delay=20),
            retention=86_400_000,
            quarantine=quarantine,
            owner="me",
            poke=end,
            ask=ask,
            targets=targets,
        )
        return self.dispatcher

    def close(self) -> None:
        for end in self._ends:
            end.close()
        self._ends.clear()

    async def run(self, *providers: Provider, until: Callable[[], bool], **more: Any) -> None:
        """Run a dispatcher until what is wanted is the case, then stop it in order."""
        async with self.running(*providers, **more) as wait:
            await wait(until)

    @asynccontextmanager
    async def running(self, *providers: Provider, **more: Any) -> AsyncIterator[Wait]:
        """A dispatcher that is stopped in order at the end; what is given waits until something is the case."""
        dispatcher = self.new(*providers, **more)
        task = asyncio.create_task(dispatcher.run())

        async def wait(until: Callable[[], bool]) -> None:
            async with asyncio.timeout(20):
                while not until():
                    assert not task.done(), task.exception()
                    await asyncio.sleep(0.01)

        try:
            yield wait
        finally:
            dispatcher.stop()
            await task


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Bridge]:
    with closing(open_database(tmp_path, durability="normal")) as database, closing(Bridge(database)) as bridge:
        yield bridge
