"""kill -9 at any moment: what was answered 200 is delivered or listed, and what is known to be sent is not sent again.

`CRASH_SEED=n` repeats the choices of a run, though not the moments at which the machine came to them.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import yaml
from msgspec import Struct

from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token, offline, until
from tests.processes import is_stopped, is_writing, keeps_readers_out, send

SEED = int(os.environ.get("CRASH_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
KILLS = [
    *[("worker", False)] * 5,
    *[("worker", True)] * 4,
    *[("dispatcher", False)] * 5,
    *[("dispatcher", True)] * 4,
    ("tree", True),
]
"""What dies, and whether only a moment will do at which it is within a write transaction; one more tree is the last."""
PHONES = 12
SLOW = {"action": "default", "delay": 0.06, "forever": True}

DEVICES = [
    *((f"phone-{n}", "phone", "ios", apns_token(0x50_0000 + n)) for n in range(PHONES)),
    *((f"droid-{n}", "phone", "android", f"droid-token-{n}") for n in range(PHONES)),
    ("both", "phone", "ios", apns_token(0x50_1000)),
    ("both", "tablet", "android", "tablet-token"),
    ("flaky", "phone", "ios", apns_token(0x50_1001)),
    ("broken", "phone", "ios", apns_token(0x50_1002)),
    ("online", "phone", "ios", apns_token(0x50_1003)),
]
OWNED = {uid: [device_id for other, device_id, *_ in DEVICES if other == uid] for uid, *_ in DEVICES}
BY_TOKEN = {token: (uid, device_id) for uid, device_id, _, token in DEVICES}
LAST_WORD = {"online": "suppressed", "nobody": "skipped", "broken": "dead"}
"""What becomes of those who are not sent to."""

Key = tuple[int, str, str]
"""Message id, uid, device id: one push."""


def recipients(turn: int) -> list[str]:
    """Whom a message is for: mostly one phone, now and then a group in which everything occurs."""
    phone, droid = f"phone-{turn % PHONES}", f"droid-{turn % PHONES}"
    if turn % 25 == 0:
        return ["broken"]
    if turn % 50 == 1:
        return ["flaky"]
    return [[phone], [droid], ["both"], [phone, droid, "both", "nobody", "online"], [phone]][turn % 5]


def arrange(standin: StandinProcess) -> None:
    """Vendors as new, and slow enough for a kill to find pushes under way."""
    standin.reset()
    standin.settings("apns", first_streams=20, full_streams=20)
    standin.settings("fcm", first_streams=20, full_streams=20)
    for uid, _, _, token in DEVICES:
        standin.script(token, [SLOW])
        if uid == "flaky":
            standin.script(token, [{"action": "reset"}, {"action": "default", "delay": 0.06}] * 2_000)
        if uid == "broken":
            standin.script(token, [{"action": "reset", "forever": True}])


class Poster:
    """Posts messages one after another, tries none again, and keeps those that were answered 200, up to `most`."""

    def __init__(self, service: Service) -> None:
        self.accepted: dict[int, dict[str, Any]] = {}
        self.most = 0
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(start,)) for start in (0, 1)]

    def __enter__(self) -> Poster:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, turn: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=15)
        while not self._stop.wait(0.04):
            if len(self.accepted) >= self.most:
                continue
            turn += len(self._threads)
            body = offline(recipients(turn))
            try:
                connection.request("POST", "/webhook?event=msg.offline", json.dumps(body).encode())
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.accepted[body["message_id"]] = body
            except (OSError, http.client.HTTPException):
                connection.close()  # the next request opens a new one
        connection.close()


class Seen(Struct):
    """What a kill found. settled: pushes whose outcome was in the database. mark: requests that had come by then.

    writing: whether a process that died was within a transaction. claimed: events that a dispatcher had taken up.
    """

    kind: str
    settled: set[Key]
    mark: int
    writing: bool
    claimed: int


class Killer:
    """Kills processes of a service. What dies is stopped first, so that it can be seen what it was doing."""

    def __init__(self, service: Service, standin: StandinProcess, poster: Poster, chance: random.Random) -> None:
        self.found: list[Seen] = []
        self._service = service
        self._standin = standin
        self._poster = poster
        self._chance = chance

    def kill(self, kind: str, writing: bool) -> None:
        """Let some more work be done, kill in the midst of it, and have the service come back."""
        service = self._service
        dispatcher = service.dispatcher()
        accepted, sent = len(self._poster.accepted), self._sent()
        calls, pushes = self._chance.randrange(20), self._chance.randrange(40)
        self._poster.most = accepted + 25  # however slow this machine is, the work is bounded
        if kind == "worker":
            until(lambda: len(self._poster.accepted) > accepted + calls, "more calls are accepted", 30)
            workers = until(service.workers, "a worker runs")
            self._kill(kind, writing, workers if writing else [self._chance.choice(workers)])
            return
        until(lambda: self._sent() > sent + pushes, "more pushes are sent and settled", 30)
        if kind == "dispatcher":
            self._kill(kind, writing, [dispatcher])
            until(lambda: service.dispatcher() != dispatcher, "another dispatcher runs")
        else:
            self._kill(kind, writing, service.pids())
            service.kill()
            service.start()

    def _kill(self, kind: str, writing: bool, pids: list[int]) -> None:
        if writing:
            self._poster.most += 10_000
        victims = until(lambda: self._stop(kind, writing, pids), "a process is writing", 30)
        self._poster.most = len(self._poster.accepted) + 25
        self.found.append(self._look(kind, victims))
        send(signal.SIGKILL, victims)
        send(signal.SIGCONT, pids)

    def _stop(self, kind: str, writing: bool, pids: list[int]) -> list[int]:
        """Stop these processes; those that are to die, none if this is not the moment."""
        data = self._service.data
        send(signal.SIGSTOP, pids)
        until(lambda: all(map(is_stopped, pids)), "they are stopped")
        writers = [pid for pid in pids if is_writing(data, pid)]
        if (writing and not writers) or any(keeps_readers_out(data, pid) for pid in pids):  # we shall have to read
            send(signal.SIGCONT, pids)
            return []
        return writers if writing and kind != "tree" else pids

    def _look(self, kind: str, pids: list[int]) -> Seen:
        data = self._service.data
        settled = {(row[0], row[1], row[2]) for row in self._service.query(f"SELECT message_id, uid, device_id {SENT}")}
        ((claimed,),) = self._service.query("SELECT count(*) FROM events WHERE owner IS NOT NULL AND state = 0")
        writing = any(is_writing(data, pid) for pid in pids)
        mark = sum(self._standin.counts()["requests"].values())
        return Seen(kind, settled, mark, writing, claimed)

    def _sent(self) -> int:
        return int(self._service.query(f"SELECT count(*) {SENT}")[0][0])

    def requests(self) -> int:
        requests = self._standin.counts()["requests"]
        return int(requests["apns"] + requests["fcm"])


SENT = "FROM deliveries WHERE outcome = 'sent'"


def pushed(standin: StandinProcess) -> dict[Key, list[dict[str, Any]]]:
    """What the vendors saw of each push, in the order in which it came."""
    seen: defaultdict[Key, list[dict[str, Any]]] = defaultdict(list)
    for request in standin.requests():
        if request["server"] != "token":
            body = json.loads(request["body"])
            data = body if request["server"] == "apns" else body["message"]["data"]
            seen[(int(data["message_id"]), *BY_TOKEN[request["device"]])].append(request)
    return seen


def check_nothing_known_was_sent_again(pushes: dict[Key, list[dict[str, Any]]], kills: list[Seen]) -> int:
    """Only what was under way at a kill comes again, under the ids of the first time; how often that was."""
    repeats = 0
    for key, requests in pushes.items():
        assert not [kill.kind for kill in kills if key in kill.settled and requests[-1]["n"] > kill.mark], key
        answered = [(request["server"], request["connection"]) for request in requests if request["answered"] == 200]
        assert len(answered) == len(set(answered)), f"{key}: sent again by the dispatcher that knew"
        assert len({dict(request["headers"]).get("apns-id") for request in requests}) == 1, key
        repeats += max(0, len(answered) - 1)
    return repeats


def check_everything_is_accounted_for(
    bodies: Iterable[dict[str, Any]], seen: dict[Key, list[dict[str, Any]]], service: Service
) -> None:
    """Each recipient of each accepted message was sent to, or is listed with the reason why not."""
    outcomes: defaultdict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    for record in service.records():
        outcomes[int(record["message_id"]), record["uid"]][record["device_id"]] = record["outcome"]
    letters = {(int(letter["message_id"]), letter["uid"]) for letter in service.dead_letters()}
    for body in bodies:
        message_id = body["message_id"]
        for uid in body["to_uids"]:
            outcome = LAST_WORD.get(uid, "sent")
            devices = [""] if outcome in ("suppressed", "skipped") else OWNED[uid]
            assert outcomes[message_id, uid] == dict.fromkeys(devices, outcome), (message_id, uid)
            assert ((message_id, uid) in letters) == (outcome == "dead")
            if outcome == "sent":
                for device_id in devices:
                    assert 200 in [request["answered"] for request in seen[message_id, uid, device_id]]


def post_again(service: Service, bodies: list[dict[str, Any]]) -> None:
    """As a server does that missed the answers."""
    shares = [bodies[start::4] for start in range(4)]
    threads = [threading.Thread(target=service.webhooks, args=("msg.offline", share)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def is_done(service: Service) -> bool:
    """Whether nothing is left to do but what will never succeed."""
    return service.query(LEFT) == [(0, 0)]


LEFT = """SELECT (SELECT count(*) FROM events WHERE state = 0),
                 (SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL AND uid != 'broken')"""


def give_up(service: Service) -> None:
    """After one kill more, a push that is over a second old is a dead letter where it fails."""
    settings = yaml.safe_load(service.config.read_text())
    settings["retry"]["max_age"] = "1s"
    service.kill()
    service.config.write_text(yaml.safe_dump(settings))
    service.start()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "turn" in metafunc.fixturenames:
        turns = range(10 if metafunc.config.getoption("--soak") else 1)
        metafunc.parametrize("turn", turns, ids=[f"round-{turn}" for turn in turns])


@pytest.mark.soak
def test_twenty_kills_lose_nothing(start: Callable[..., Service], standin: StandinProcess, turn: int) -> None:
    print(f"CRASH_SEED={SEED}, round {turn}")
    arrange(standin)
    survive_twenty_kills(start(**ONE_CONNECTION), standin, random.Random(SEED + turn))


ONE_CONNECTION = {"providers": {name: {"max_connections": 1} for name in ("ios", "android")}}


def survive_twenty_kills(service: Service, standin: StandinProcess, chance: random.Random) -> None:
    service.register_many(
        [dict(zip(("uid", "device_id", "provider", "token"), device, strict=True)) for device in DEVICES]
    )
    service.statuses("online-0-1-1-1-1")
    with Poster(service) as poster:
        killer = Killer(service, standin, poster, chance)
        for kind, writing in chance.sample(KILLS, len(KILLS)):
            killer.kill(kind, writing)
    until(lambda: is_done(service), "only those wait who cannot be sent to", 60)
    give_up(service)
    until(service.is_idle, "nothing waits any more", 60)
    seen = pushed(standin)
    repeats = check_nothing_known_was_sent_again(seen, killer.found)
    check_everything_is_accounted_for(poster.accepted.values(), seen, service)
    check_work_was_hit(killer.found, repeats)
    before = killer.requests()
    post_again(service, list(poster.accepted.values()))
    until(service.is_idle, "nothing waits any more", 60)
    assert killer.requests() == before


def check_work_was_hit(kills: list[Seen], repeats: int) -> None:
    """The kills came during claims, sends and settles, and not in between."""
    print("kind, writing, claimed:", [(kill.kind, kill.writing, kill.claimed) for kill in kills], "repeats:", repeats)
    for kind in ("worker", "dispatcher", "tree"):
        assert any(kill.writing for kill in kills if kill.kind == kind)
    assert any(kill.claimed for kill in kills if kill.kind != "worker")
    assert repeats
