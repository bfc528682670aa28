"""Events that are passed on: in order, until they are answered 200, and nobody waits for anybody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Connection
from structlog.testing import capture_logs

from app import relay as relaying
from app.clock import now_ms
from app.dispatch import loop
from app.dispatch import relay as part
from app.relay import Target
from app.settle import Limits
from app.store import leases, relay
from app.store.dialect import Database, NotLocked
from app.store.relay import SEEN, Copy
from providers.kit.base import Request, Response, Unreachable
from tests.dispatch.conftest import Bridge, Stub

OFFLINE, NOTIFY = "msg.offline", "msg.notify"
FAST = Limits(first_delay=1, max_delay=2)


class Consumer:
    """A target. answer: the status for an event, or what to raise or await instead. seen: every attempt, in order."""

    def __init__(self, host: str = "a", max_age: int = 3_600_000, max_backlog: int = 1_000) -> None:
        self.target: Target = relaying.target(
            f"http://{host}/w", b"", None, max_age=max_age, max_backlog=max_backlog, timeout=1
        )
        self.name = self.target.name
        self.answer: Callable[[str, bytes], Any] = lambda _kind, _body: 200
        self.seen: list[tuple[str, bytes]] = []

    async def send(self, request: Request) -> Response:
        path, _, kind = request.path.partition("?event=")
        assert path == "/w"
        self.seen.append((kind, request.body))
        answer = self.answer(kind, request.body)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return Response(answer, {}, b"whatever it says")

    def bodies(self, kind: str = OFFLINE) -> list[bytes]:
        return [body for found, body in self.seen if found == kind]

    @property
    def pair(self) -> tuple[Target, Any]:
        return self.target, self.send


def put(database: Database, target: str, *bodies: bytes, kind: str = OFFLINE, age: int = 0) -> None:
    with database.write() as connection:
        relay.put(connection, [Copy(target, kind, body, now_ms() - age, True) for body in bodies])


def left(database: Database) -> dict[relay.Stream, int]:
    """How many events wait, by target and kind."""
    with database.read() as connection:
        return {stream: count for stream, (count, _) in relay.depth(connection).items()}


def numbered(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


def counted(name: str, target: str, event: str = OFFLINE, **more: str) -> float:
    return REGISTRY.get_sample_value(f"pushbridge_{name}_total", {"target": target, "event": event, **more}) or 0


def run(bridge: Bridge, *consumers: Consumer, until: Callable[[], bool], **more: Any) -> None:
    pairs = [consumer.pair for consumer in consumers]
    asyncio.run(bridge.run(until=until, targets=pairs, limits=FAST, **more))


def test_each_event_is_sent_once_in_order(bridge: Bridge) -> None:
    a, b = Consumer("a"), Consumer("b")
    for kind in (OFFLINE, NOTIFY, "custom"):
        put(bridge.database, a.name, *numbered(120), kind=kind)
    put(bridge.database, b.name, *numbered(3))
    run(bridge, a, b, until=lambda: left(bridge.database) == {})
    for kind in (OFFLINE, NOTIFY, "custom"):
        assert a.bodies(kind) == numbered(120)
    assert b.seen == [(OFFLINE, body) for body in numbered(3)]
    assert counted("relayed", a.name) == 120
    assert counted("relayed", a.name, "other") == 120


@pytest.mark.parametrize("fault", [201, 204, 302, 400, 500, 503, Unreachable("timed out")])
def test_only_200_settles(bridge: Bridge, fault: Any) -> None:
    consumer = Consumer()
    answers = iter([fault, fault, 200, fault, 200])
    consumer.answer = lambda _kind, _body: next(answers)
    put(bridge.database, consumer.name, b"1", b"2")
    before = counted("relay_failures", consumer.name)
    with capture_logs() as lines:
        run(bridge, consumer, until=lambda: left(bridge.database) == {})
    assert consumer.bodies() == [b"1", b"1", b"1", b"2", b"2"]
    assert counted("relay_failures", consumer.name) == before + 3
    told = [(line["event"], line.get("reason"), line.get("attempts")) for line in lines if line["action"] == "relay"]
    reason = f"status {fault}" if isinstance(fault, int) else "timed out"
    assert told == [
        ("relay target takes no events", reason, None),
        ("relay target takes events again", None, 3),
        ("relay target takes no events", reason, None),
        ("relay target takes events again", None, 2),
    ]


def test_a_kind_or_target_that_hangs_keeps_nobody_waiting(bridge: Bridge) -> None:
    bridge.register("bob", "good")
    a, b, good = Consumer("a"), Consumer("b"), Stub("good")

    async def scenario() -> None:
        hangs = asyncio.Event()

        async def hang() -> int:
            await hangs.wait()
            return 200

        a.answer = lambda kind, _body: hang() if kind == OFFLINE else 200
        for target in (a, b):
            put(bridge.database, target.name, b"1", b"2")
            put(bridge.database, target.name, b"1", b"2", kind=NOTIFY)
        async with bridge.running(good, targets=[a.pair, b.pair], limits=FAST) as wait:
            bridge.message("bob")
            await wait(lambda: left(bridge.database) == {(a.name, OFFLINE): 2} and bridge.outcomes() == {"bob": "sent"})
            assert a.bodies() == [b"1"]
            hangs.set()
            await wait(lambda: left(bridge.database) == {})

    asyncio.run(scenario())
    assert a.bodies() == [b"1", b"2"]


def test_a_kind_that_was_never_seen_is_taken_up_while_running(bridge: Bridge) -> None:
    consumer = Consumer()

    async def scenario() -> None:
        async with bridge.running(targets=[consumer.pair]) as wait:
            for kind in ("one", "two"):
                put(bridge.database, consumer.name, b"x", kind=kind)
                await wait(lambda kind=kind: (kind, b"x") in consumer.seen)

    asyncio.run(scenario())


def test_it_looks_when_it_has_the_lease_when_it_is_poked_and_when_a_stream_ends(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "POLL", 3_600)
    monkeypatch.setattr(loop, "RENEW_EVERY", 3_600)
    monkeypatch.setattr(part, "AT_ONCE", 1)
    consumer = Consumer()
    for kind in ("one", "two"):
        put(bridge.database, consumer.name, b"x", kind=kind)

    async def scenario() -> None:
        async with bridge.running(targets=[consumer.pair]) as wait:
            await wait(lambda: left(bridge.database) == {})
            await asyncio.sleep(0.1)  # it looks once more when the last stream has ended
            put(bridge.database, consumer.name, b"x", kind="three")
            bridge.poke()
            await wait(lambda: left(bridge.database) == {})

    asyncio.run(scenario())
    assert [kind for kind, _ in consumer.seen] == ["one", "two", "three"]


def test_nothing_is_sent_before_its_predecessor_is_written_down(bridge: Bridge) -> None:
    """Else a kill could double more than the one event whose outcome is unknown."""
    consumer = Consumer()
    waiting_at_send: list[int] = []

    def answer(_kind: str, _body: bytes) -> int:
        waiting_at_send.append(left(bridge.database)[consumer.name, OFFLINE])
        return 200

    consumer.answer = answer
    put(bridge.database, consumer.name, *numbered(5))
    run(bridge, consumer, until=lambda: left(bridge.database) == {})
    assert waiting_at_send == [5, 4, 3, 2, 1]


def test_a_database_that_is_away_doubles_nothing(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer()
    failures: dict[str, int] = {}

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def twice(*given: Any) -> Any:
            failures[function.__name__] = failures.get(function.__name__, 0) + 1
            if failures[function.__name__] < 3:
                raise NotLocked("away")
            return function(*given)

        return twice

    for function in (relay.done, relay.head, relay.kinds):
        monkeypatch.setattr(relay, function.__name__, failing(function))
    put(bridge.database, consumer.name, b"1", b"2")
    run(bridge, consumer, until=lambda: left(bridge.database) == {})
    assert consumer.bodies() == [b"1", b"2"]
    assert min(failures.values()) > 2


def test_streams_are_written_down_together(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams that are answered at the same moment."""
    consumers = [Consumer(host) for host in ("a", "b", "c")]
    batches: list[int] = []
    done = relay.done
    monkeypatch.setattr(relay, "done", lambda db, ids, now: (batches.append(len(ids)), done(db, ids, now)))

    async def scenario() -> None:
        all_there = asyncio.Barrier(3)

        async def answer() -> int:
            await all_there.wait()
            return 200

        for consumer in consumers:
            consumer.answer = lambda _kind, _body: answer()
            put(bridge.database, consumer.name, b"1")
        async with bridge.running(targets=[consumer.pair for consumer in consumers]) as wait:
            await wait(lambda: left(bridge.database) == {})

    asyncio.run(scenario())
    assert sorted(batches) == [1, 2]


def test_what_is_too_old_is_dropped_and_told_once(bridge: Bridge) -> None:
    consumer = Consumer(max_age=60_000)
    put(bridge.database, consumer.name, *numbered(3), age=61_000)
    put(bridge.database, consumer.name, b"young", age=30_000)
    put(bridge.database, consumer.name, b"other", kind=NOTIFY)
    before = counted("relay_dropped", consumer.name, reason="max_age")
    with capture_logs() as lines:
        run(bridge, consumer, until=lambda: left(bridge.database) == {})
    assert consumer.bodies() == [b"young"]
    assert counted("relay_dropped", consumer.name, reason="max_age") == before + 3
    dropped = [line for line in lines if line["action"] == "relay"]
    assert [(line["event"], line["dropped"], line["target"], line["kind"]) for line in dropped] == [
        ("events too old to be relayed", 3, consumer.name, OFFLINE)
    ]


def test_what_gets_too_old_while_the_target_is_down_is_dropped(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer(max_age=20_000)
    clock = now_ms

    def answer(_kind: str, _body: bytes) -> int:
        monkeypatch.setattr(part, "now_ms", lambda: clock() + 20_000)
        return 500

    consumer.answer = answer
    put(bridge.database, consumer.name, b"1", b"2")
    run(bridge, consumer, until=lambda: left(bridge.database) == {})
    assert consumer.bodies() == [b"1"]


def test_what_is_too_much_for_a_target_is_dropped_and_told_at_each_change(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(part, "TIDY_ROWS", 2)
    dead, other = Consumer("a", max_backlog=10), Consumer("b", max_backlog=100)
    dead.answer = other.answer = lambda _kind, _body: 500
    put(bridge.database, dead.name, *numbered(9))
    put(bridge.database, dead.name, *numbered(6), kind=NOTIFY)
    put(bridge.database, other.name, *numbered(15))
    before = counted("relay_dropped", dead.name, reason="max_backlog")
    ours = {(dead.name, OFFLINE), (dead.name, NOTIFY)}

    def waiting() -> int:
        return sum(count for stream, count in left(bridge.database).items() if stream in ours)

    async def scenario() -> None:
        async with bridge.running(targets=[dead.pair, other.pair], limits=FAST) as wait:
            await wait(lambda: waiting() == 10)
            put(bridge.database, dead.name, *(b"new %d" % number for number in range(4)), kind=NOTIFY)
            await wait(lambda: waiting() == 10)
            dead.answer = lambda _kind, _body: 200
            bridge.poke()
            await wait(lambda: waiting() == 0 and not bridge.dispatcher._relay._queues[0].full)

    with capture_logs() as lines:
        asyncio.run(scenario())
    assert dead.bodies(NOTIFY)[-4:] == [b"new %d" % number for number in range(4)]
    assert left(bridge.database) == {(other.name, OFFLINE): 15}
    assert counted("relay_dropped", dead.name, reason="max_backlog") == before + 9
    told = [(line["event"], line["target"]) for line in lines if "max_backlog" in line]
    assert told == [
        ("relay target is too far behind: its oldest events are dropped", dead.name),
        ("relay target is not too far behind any more", dead.name),
    ]


@pytest.mark.parametrize("slow", ["count", "oldest"])
@pytest.mark.parametrize("reads_at_once", [True, False])
def test_a_look_at_how_much_waits_holds_no_push_up(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, slow: str, reads_at_once: bool
) -> None:
    monkeypatch.setattr(part, "LOOK_EVERY", 0.02)
    bridge.database.reads_at_once = reads_at_once
    bridge.register("bob", "good")
    dead, good = Consumer(max_backlog=2), Stub("good")
    dead.answer = lambda _kind, _body: 500
    put(bridge.database, dead.name, *numbered(3))
    begun, pushed = threading.Event(), threading.Event()
    in_time: list[bool] = []
    function = getattr(relay, slow)

    def slowly(*given: Any) -> Any:
        begun.set()
        in_time.append(pushed.wait(10))
        return function(*given)

    monkeypatch.setattr(relay, slow, slowly)

    async def scenario() -> None:
        async with bridge.running(good, targets=[dead.pair], limits=FAST) as wait:
            await wait(begun.is_set)
            bridge.message("bob")
            await wait(lambda: bridge.outcomes() == {"bob": "sent"})
            pushed.set()
            await wait(lambda: sum(left(bridge.database).values()) == 2)

    asyncio.run(scenario())
    assert all(in_time)


def test_what_waits_is_counted_where_it_could_be_too_much(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "LOOK_EVERY", 0.01)
    consumer = Consumer(max_backlog=10)
    consumer.answer = lambda _kind, _body: 500
    put(bridge.database, consumer.name, *numbered(4))
    looks, counts = 0, []
    newest, count = relay.newest, relay.count

    def look(connection: Connection) -> int:
        nonlocal looks
        looks += 1
        return newest(connection)

    def note(connection: Connection, target: str) -> int:
        counts.append(count(connection, target))
        return counts[-1]

    monkeypatch.setattr(relay, "newest", look)
    monkeypatch.setattr(relay, "count", note)

    async def scenario() -> None:
        async with bridge.running(targets=[consumer.pair], limits=FAST) as wait:
            for more, counted_then in ((6, [4]), (1, [4, 11])):
                await wait(lambda: bool(counts))
                put(bridge.database, consumer.name, *(b"%d more %d" % (more, n) for n in range(more)))
                until = looks + 3
                await wait(lambda until=until: looks >= until)
                assert counts[: len(counted_then)] == counted_then

    asyncio.run(scenario())
    assert left(bridge.database) == {(consumer.name, OFFLINE): 10}


class Writes:
    """What each write transaction took: rows that it changed, and thousands of steps of SQLite's machine."""

    def __init__(self, database: Database) -> None:
        self.rows: list[int] = []
        self.steps: list[int] = []
        self._write = database.write

    @contextmanager
    def __call__(self) -> Iterator[Connection]:
        with self._write() as connection:
            driver: Any = connection.connection.driver_connection
            before, taken = driver.total_changes, list[None]()
            driver.set_progress_handler(lambda: taken.append(None), 1_000)
            try:
                yield connection
            finally:
                driver.set_progress_handler(None, 0)
            self.rows.append(driver.total_changes - before)
            self.steps.append(len(taken))


def test_a_removed_target_is_dropped_in_short_transactions(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of it is young, and before whatever is old."""
    monkeypatch.setattr(part, "TIDY_EVERY", 0.02)
    gone = "gone:80/1"
    put(bridge.database, gone, *numbered(250), kind="a", age=SEEN + 1_000)
    put(bridge.database, gone, *(b"young %d" % n for n in range(3_000)), kind="a")
    put(bridge.database, gone, *numbered(450), kind="b", age=SEEN + 1_000)
    writes = Writes(bridge.database)
    monkeypatch.setattr(bridge.database, "write", writes)
    with capture_logs() as lines:

        def dropped() -> list[int]:
            return [line["dropped"] for line in lines if line["event"] == "relay target is gone"]

        run(bridge, until=lambda: dropped() == [700])
    assert left(bridge.database) == {(gone, "a"): 3_000}
    assert max(writes.rows) == part.TIDY_ROWS == 200
    assert max(writes.steps) <= 10


@pytest.mark.parametrize("more", [{"max_backlog": 50}, {"max_age": 60_000}])
def test_what_a_target_missed_is_dropped_in_short_transactions(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, more: dict[str, int]
) -> None:
    monkeypatch.setattr(part, "LOOK_EVERY", 0.02)
    dead = Consumer(**more)
    dead.answer = lambda _kind, _body: 500
    put(bridge.database, dead.name, *numbered(450), age=61_000)
    put(bridge.database, dead.name, *(b"young %d" % n for n in range(50)))
    writes = Writes(bridge.database)
    monkeypatch.setattr(bridge.database, "write", writes)
    run(bridge, dead, until=lambda: left(bridge.database) == {(dead.name, OFFLINE): 50})
    assert max(writes.rows) == 200


def test_a_target_that_is_configured_no_more(bridge: Bridge) -> None:
    """After a while: another machine may have it in its configuration, and this one not yet."""
    consumer, gone = Consumer("a"), "gone:80/1"
    consumer.answer = lambda _kind, _body: 500
    put(bridge.database, consumer.name, b"kept", age=SEEN + 1_000)
    put(bridge.database, gone, b"1", b"2", age=SEEN + 1_000)
    put(bridge.database, gone, b"3")
    with capture_logs() as lines:

        def told() -> list[tuple[str, int]]:
            return [(line["target"], line["dropped"]) for line in lines if line["event"] == "relay target is gone"]

        run(bridge, consumer, until=lambda: told() == [(gone, 2)])
    assert left(bridge.database) == {(consumer.name, OFFLINE): 1, (gone, OFFLINE): 1}


def test_only_the_dispatcher_with_the_lease_sends(bridge: Bridge) -> None:
    consumer, other = Consumer("a"), Consumer("b")
    with bridge.database.write() as connection:
        assert leases.take(connection, f"relay/{consumer.name}", "another", now_ms(), now_ms() + 60_000)
    put(bridge.database, consumer.name, b"1")
    put(bridge.database, other.name, b"1")
    run(bridge, consumer, other, until=lambda: left(bridge.database) == {(consumer.name, OFFLINE): 1})
    assert consumer.seen == []
    with bridge.database.write() as connection:
        assert leases.take(connection, f"relay/{other.name}", "another", now_ms(), now_ms() + 1), "it was given back"
        leases.give_back(connection, "another")
    run(bridge, consumer, until=lambda: left(bridge.database) == {})
    assert consumer.bodies() == [b"1"]


def test_a_lease_that_ran_out_ends_the_sending(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer()
    clock = now_ms

    def answer(_kind: str, body: bytes) -> int:
        if body == b"1":
            monkeypatch.setattr(part, "now_ms", lambda: clock() + 60_000)
        return 200

    consumer.answer = answer
    put(bridge.database, consumer.name, b"0", b"1", b"2")

    async def scenario() -> None:
        async with bridge.running(targets=[consumer.pair]) as wait:
            await wait(lambda: left(bridge.database) == {(consumer.name, OFFLINE): 1})
            put(bridge.database, consumer.name, b"x", kind=NOTIFY)
            for _ in range(3):
                bridge.dispatcher._relay.poked()
                await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert consumer.seen == [(OFFLINE, b"0"), (OFFLINE, b"1")]


def test_a_stop_lets_the_request_under_way_end(bridge: Bridge) -> None:
    consumer = Consumer()

    async def scenario() -> None:
        under_way, end = asyncio.Event(), asyncio.Event()

        async def answer() -> int:
            under_way.set()
            await end.wait()
            return 200

        consumer.answer = lambda _kind, _body: answer()
        put(bridge.database, consumer.name, b"1", b"2")
        async with bridge.running(targets=[consumer.pair]):
            await under_way.wait()
            bridge.dispatcher.stop()
            asyncio.get_running_loop().call_later(0.1, end.set)

    asyncio.run(scenario())
    assert consumer.bodies() == [b"1"]
    assert left(bridge.database) == {(consumer.name, OFFLINE): 1}


def test_a_stop_waits_for_no_target_that_hangs(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "PATIENCE", 0.05)
    consumer = Consumer()
    put(bridge.database, consumer.name, b"1")

    async def scenario() -> None:
        consumer.answer = lambda _kind, _body: asyncio.Event().wait()
        async with bridge.running(targets=[consumer.pair]) as wait:
            await wait(lambda: len(consumer.seen) == 1)

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert left(bridge.database) == {(consumer.name, OFFLINE): 1}


def test_a_stop_waits_for_no_delay(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "PATIENCE", 600)
    monkeypatch.setattr(part, "LONGEST_DELAY", 600_000)
    consumer = Consumer()
    consumer.answer = lambda _kind, _body: 500
    put(bridge.database, consumer.name, b"1")

    async def scenario() -> None:
        slow = Limits(first_delay=600_000, max_delay=600_000)
        async with bridge.running(targets=[consumer.pair], limits=slow) as wait:
            await wait(lambda: len(consumer.seen) == 1)

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert len(consumer.seen) == 1


def test_delays_are_cut_to_what_one_request_is_worth(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "LONGEST_DELAY", 1)
    consumer = Consumer()
    answers = iter([500, 500, 200])
    consumer.answer = lambda _kind, _body: next(answers)
    put(bridge.database, consumer.name, b"1")
    slow = Limits(first_delay=600_000, max_delay=600_000)
    asyncio.run(bridge.run(until=lambda: left(bridge.database) == {}, targets=[consumer.pair], limits=slow))


def test_memory_is_bounded_by_portions(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer()
    held: list[int] = []
    head = relay.head

    def noting(*given: Any) -> list[relay.Waiting]:
        found = head(*given)
        held.append(sum(len(event.body) for event in found))
        return found

    monkeypatch.setattr(relay, "head", noting)
    put(bridge.database, consumer.name, *(b"%d" % number + b"x" * 400_000 for number in range(8)))
    run(bridge, consumer, until=lambda: left(bridge.database) == {})
    assert len(consumer.seen) == 8
    assert 0 < max(held) <= part.READ_BYTES


def test_made_up_kinds_are_sent_a_few_at_a_time(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """And known ones beside them, whatever becomes of those."""
    monkeypatch.setattr(part, "AT_ONCE", 3)
    consumer = Consumer()

    async def scenario() -> None:
        hangs = asyncio.Event()

        async def hang() -> int:
            await hangs.wait()
            return 200

        consumer.answer = lambda kind, _body: 200 if kind == OFFLINE else hang()
        for kind in ("a", "b", "c", "d", "e", OFFLINE, "z"):
            put(bridge.database, consumer.name, b"x", kind=kind)
        async with bridge.running(targets=[consumer.pair]) as wait:
            await wait(lambda: (OFFLINE, b"x") in consumer.seen)
            for _ in range(3):
                bridge.dispatcher._relay.poked()
                await asyncio.sleep(0.05)
            assert sorted(consumer.seen) == [("a", b"x"), ("b", b"x"), ("c", b"x"), (OFFLINE, b"x")]
            hangs.set()
            await wait(lambda: left(bridge.database) == {})

    asyncio.run(scenario())
    assert len(consumer.seen) == 7


def test_kinds_that_are_refused_hold_up_no_others(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: each keeps its place for a few attempts. And one line is logged for all of them."""
    monkeypatch.setattr(part, "AT_ONCE", 2)
    consumer = Consumer()
    consumer.answer = lambda kind, _body: 404 if kind < "f" else 200
    for kind in "abcdefgz":
        put(bridge.database, consumer.name, b"1", b"2", kind=kind)
    with capture_logs() as lines:
        run(bridge, consumer, until=lambda: {kind for _, kind in left(bridge.database)} == set("abcde"))
    for kind in "fgz":
        assert consumer.bodies(kind) == [b"1", b"2"]
    for kind in "abcde":
        assert set(consumer.bodies(kind)) <= {b"1"}, "order is kept"
    told = [(line["event"], line["kind"]) for line in lines if line["action"] == "relay"]
    assert told == [("relay target takes no events", "other")]


def test_a_busy_kind_makes_room_when_others_wait(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "AT_ONCE", 1)
    monkeypatch.setattr(part, "READ", 2)
    consumer = Consumer()
    for kind in ("a", "b"):
        put(bridge.database, consumer.name, *numbered(4), kind=kind)
    run(bridge, consumer, until=lambda: left(bridge.database) == {})
    assert [kind for kind, _ in consumer.seen] == ["a", "a", "b", "b"] * 2
    assert consumer.bodies("a") == consumer.bodies("b") == numbered(4)


def test_a_lease_that_is_not_written_down_yet_is_none(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two dispatchers could send at once."""
    consumer, other = Consumer("a"), Consumer("b")
    put(bridge.database, consumer.name, b"1")
    take = leases.take
    tries, away = 0, True

    def failing(connection: Any, name: str, *more: Any) -> bool:
        nonlocal tries
        if other.name in name:
            tries += 1
            if away:
                raise NotLocked("away")
        return take(connection, name, *more)

    monkeypatch.setattr(leases, "take", failing)

    async def scenario() -> None:
        nonlocal away
        async with bridge.running(targets=[consumer.pair, other.pair]) as wait:
            await wait(lambda: tries == 1)
            bridge.poke()
            await wait(lambda: tries == 3)
            assert consumer.seen == []
            away = False
            await wait(lambda: left(bridge.database) == {})

    asyncio.run(scenario())
