"""The control port: POST /<command>, arguments as one JSON object; `client.StandinProcess` is its other side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from app.demo.standin.faults import Faults
from app.demo.standin.record import Recorder
from app.demo.standin.server import Scripts, Server
from app.demo.standin.values import Answer, Call, Last, Peer, Scripted


class Control:
    """Handler of the control port. Each command is a method; a wrong name, argument or value is answered with 400."""

    name = "control"
    first_streams = full_streams = 100

    def __init__(
        self,
        servers: Mapping[str, Server],
        scripts: Scripts,
        recorder: Recorder,
        revoke: Callable[[], None],
        rotate: Callable[[bool], None],
    ) -> None:
        self._servers = servers
        self._scripts = scripts
        self._recorder = recorder
        self._tasks: set[asyncio.Task[None]] = set()
        self._commands: dict[str, Callable[..., object]] = {
            "script": self._script,
            "script_all": self._script_all,
            "faults": self._faults,
            "goaway": self._goaway,
            "hold": lambda server: servers[server].hold(),
            "release": lambda server: servers[server].release(),
            "settings": self._settings,
            "revoke_tokens": revoke,
            "rotate": rotate,
            "requests": recorder.find,
            "counts": self._counts,
            "clear": recorder.clear,
            "reset": self._reset,
        }

    def connected(self, peer: Peer) -> None:
        """Nothing is kept of a connection to the control port."""

    def disconnected(self, peer: Peer) -> None:
        """Nothing is kept of a connection to the control port."""

    def refused(self, peer: Peer) -> None:
        """Nothing is counted on the control port."""

    def received(self, peer: Peer, call: Call) -> None:
        command = call.path.removeprefix("/")
        try:
            arguments = msgspec.json.decode(call.body or b"{}", type=dict[str, Any])
            if command == "wait":
                self._start(self._wait(peer, call, **arguments))
                return
            result = self._commands[command](**arguments)
        except (msgspec.MsgspecError, TypeError, KeyError, ValueError) as error:
            _reply(peer, call, 400, {"error": f"{command}: {type(error).__name__}: {error}"})
        else:
            _reply(peer, call, 200, result)

    def _start(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait(
        self,
        peer: Peer,
        call: Call,
        count: int,
        server: str | None = None,
        token: str | None = None,
        seconds: float = 10.0,
    ) -> None:
        enough = await self._recorder.wait(count, server, token, seconds)
        found = self._recorder.find(0, server, token) if enough else self._recorder.find()
        _reply(peer, call, 200 if enough else 408, found)

    def _script(self, token: str, answers: list[object]) -> None:
        self._scripts.set(token, msgspec.convert(answers, list[Scripted]))

    def _script_all(self, server: str, answers: list[object]) -> None:
        self._servers[server].everything.set("", msgspec.convert(answers, list[Scripted]))

    def _faults(self, server: str, seed: int | None, only: list[str]) -> None:
        self._servers[server].faults = None if seed is None else Faults(server, seed, only)

    def _goaway(self, server: str, last: str, code: int, debug: str) -> None:
        self._servers[server].goaway(msgspec.convert(last, Last), code, debug.encode("latin-1"))

    def _settings(
        self, server: str, max_streams: int | None, first_streams: int | None, full_streams: int | None
    ) -> None:
        self._servers[server].settings(max_streams, first_streams, full_streams)

    def _counts(self) -> dict[str, Any]:
        recorder = self._recorder
        return {
            "connections": {name: recorder.connections[name] for name in self._servers},
            "open": {name: server.open_connections for name, server in self._servers.items()},
            "requests": {name: recorder.requests[name] for name in self._servers},
            "refused": {name: recorder.refused[name] for name in self._servers},
            "token_calls": recorder.requests["token"],
        }

    def _reset(self) -> None:
        self._scripts.clear()
        for server in self._servers.values():
            server.reset()
        self._recorder.clear()


def _reply(peer: Peer, call: Call, status: int, result: object) -> None:
    headers = ((b"content-type", b"application/json"),)
    peer.perform(call, Answer(status, headers, msgspec.json.encode(result)))
