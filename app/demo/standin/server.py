"""One vendor's port: what a test has scripted comes first, then faults, then what the vendor would say."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Literal, Protocol

from h2.errors import ErrorCodes
from msgspec import structs

from app.demo.standin.faults import Faults
from app.demo.standin.record import Recorder
from app.demo.standin.values import Answer, Call, Headers, Last, Peer, Scripted


class Vendor(Protocol):
    """The default behaviour."""

    name: str

    def device(self, call: Call) -> str:
        """The device token that the call names, or ""."""

    def usual_headers(self, call: Call, status: int) -> Headers:
        """The headers that every answer with this status carries."""

    def answer(self, call: Call) -> Answer:
        """What the vendor says to the call."""

    def reset(self) -> None:
        """Forget what a test has arranged."""


class Scripts:
    """Scripted answers by device token; those under "" are for any call."""

    def __init__(self) -> None:
        self._answers: dict[str, deque[Scripted]] = {}

    def set(self, token: str, answers: Sequence[Scripted]) -> None:
        self._answers[token] = deque(answers)

    def clear(self) -> None:
        self._answers.clear()

    def next(self, token: str) -> Scripted | None:
        answers = self._answers.get(token)
        if not answers:
            return None
        return answers[0] if answers[0].forever else answers.popleft()


class Server:
    """Handler of one port.

    first_streams, full_streams: see values.Handler; a client certificate gets the full number at once.
    """

    def __init__(self, vendor: Vendor, scripts: Scripts, recorder: Recorder, streams: tuple[int, int]) -> None:
        self.name = vendor.name
        self.everything = Scripts()
        self.faults: Faults | None = None
        self._vendor = vendor
        self._scripts = scripts
        self._recorder = recorder
        self._usual_streams = streams
        self._peers: dict[int, Peer] = {}
        self._raised: set[int] = set()
        self._held: list[tuple[Peer, Call]] = []
        self._holding = False
        self.first_streams, self.full_streams = streams

    @property
    def open_connections(self) -> int:
        return len(self._peers)

    def reset(self) -> None:
        """As at the start: no scripts, no faults, nothing held, no connections."""
        self.everything.clear()
        self.faults = None
        self._vendor.reset()
        self._held, self._holding = [], False
        self.first_streams, self.full_streams = self._usual_streams
        for peer in list(self._peers.values()):
            peer.close()

    def connected(self, peer: Peer) -> None:
        self._peers[peer.number] = peer
        self._recorder.connections[self.name] += 1

    def disconnected(self, peer: Peer) -> None:
        self._peers.pop(peer.number, None)
        self._raised.discard(peer.number)

    def refused(self, peer: Peer) -> None:
        self._recorder.refused[self.name] += 1

    def received(self, peer: Peer, call: Call) -> None:
        call.device = self._vendor.device(call)
        self._recorder.add(call)
        if self._holding:
            self._held.append((peer, call))
        else:
            self._process(peer, call)

    def hold(self) -> None:
        self._holding = True

    def release(self) -> None:
        self._holding = False
        held, self._held = self._held, []
        for peer, call in held:
            self._process(peer, call)

    def goaway(self, last: Last, code: int, debug: bytes) -> None:
        """What was held and is still to be processed is answered at once, as the connection closes after it."""
        peers = list(self._peers.values())
        for peer in peers:
            peer.goaway(last, code, debug)
        held, self._held = self._held, []
        for peer, call in held:
            self._process(peer, call)

    def settings(self, max_streams: int | None, first_streams: int | None, full_streams: int | None) -> None:
        if first_streams is not None:
            self.first_streams = first_streams
        if full_streams is not None:
            self.full_streams = full_streams
        if max_streams is not None:
            for peer in self._peers.values():
                peer.limit(max_streams)
            self._raised.update(self._peers)

    def _process(self, peer: Peer, call: Call) -> None:
        if not peer.processes(call):
            return
        scripted = self.everything.next("") or (self._scripts.next(call.device) if call.device else None)
        if scripted is None and self.faults is not None and (dealt := self.faults.next()) is not None:
            call.fault, fault = dealt
            scripted = fault.answer
            if fault.goaway is not None:
                peer.goaway(fault.goaway, 0, fault.debug)
                if not peer.processes(call):
                    return
        answer = self._vendor.answer(call) if scripted is None else self._scripted(call, scripted)
        if answer.delay:
            asyncio.get_running_loop().call_later(answer.delay, self._perform, peer, call, answer)
        else:
            self._perform(peer, call, answer)

    def _perform(self, peer: Peer, call: Call, answer: Answer) -> None:
        peer.perform(call, answer)
        if answer.status == 200 and answer.action == "answer" and peer.number not in self._raised:
            self._raised.add(peer.number)
            if self.full_streams != self.first_streams and not call.certified:
                peer.limit(self.full_streams)

    def _scripted(self, call: Call, scripted: Scripted) -> Answer:
        if scripted.action == "refuse":
            return Answer(action="reset", code=ErrorCodes.REFUSED_STREAM, delay=scripted.delay)
        if scripted.action in ("hang", "reset", "drop"):
            return Answer(action=scripted.action, code=scripted.code, delay=scripted.delay)
        action: Literal["half", "cut", "answer"] = scripted.action if scripted.action in ("half", "cut") else "answer"
        if scripted.status is None:
            return structs.replace(self._vendor.answer(call), action=action, delay=scripted.delay)
        usual = dict(self._vendor.usual_headers(call, scripted.status))
        given = {name.lower().encode(): value for name, value in scripted.headers.items()}
        merged = {**usual, **{name: value.encode() for name, value in given.items() if value is not None}}
        headers = tuple((name, value) for name, value in merged.items() if given.get(name, "") is not None)
        return Answer(scripted.status, headers, scripted.payload(), action, scripted.code, scripted.delay)
