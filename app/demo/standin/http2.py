"""The server's half of one HTTP/2 connection, with every misbehaviour that a test may ask for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame, SettingsFrame

from app.demo.standin.values import Answer, Call, Handler, Last

# As captured from api.push.apple.com (pushy issue 878); the number of streams is announced beside these.
_SETTINGS = {
    SettingCodes.HEADER_TABLE_SIZE: 4096,
    SettingCodes.INITIAL_WINDOW_SIZE: 65535,
    SettingCodes.MAX_FRAME_SIZE: 16384,
    SettingCodes.MAX_HEADER_LIST_SIZE: 8000,
}
_UNLIMITED = 2**31 - 1
# A socket that is closed with unread bytes in it throws away what it sent last. So the client is asked first whether
# it has read all: an answer to PING says so. It is asked twice, as a first answer may overtake its word that it had
# given some of it up. A client that is starved may take this many seconds.
_ASKED = 2
_LINGER = 20.0


class _Connection(H2Connection):
    """Counts its streams only now and then: h2 walks through all of them for every request.

    on_reset: called with every stream that the client resets; h2 says nothing of those that were answered before.
    """

    _counted = 0
    on_reset: Callable[[int], None]

    def _receive_rst_stream_frame(self, frame: RstStreamFrame) -> tuple[list[Frame], list[events.Event]]:
        self.on_reset(frame.stream_id)
        return super()._receive_rst_stream_frame(frame)

    @property
    def open_inbound_streams(self) -> int:
        if len(self.streams) > 2 * self._counted + 64:
            self._counted = self._open_streams(0 if self.config.client_side else 1)
        return self._counted


class _Request:
    __slots__ = ("body", "headers")

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.headers = headers
        self.body: list[bytes] = []


class Http2:
    """One connection. The limit of streams is kept here, not in h2, which would end the connection over it."""

    def __init__(self, number: int, handler: Handler, transport: asyncio.Transport, *, certified: bool) -> None:
        self.number = number
        self._handler = handler
        self._transport = transport
        self._certified = certified
        self._open: dict[int, _Request] = {}
        self._hung: set[int] = set()
        self._calls: dict[int, Call] = {}
        self._cancelled_unseen: set[int] = set()
        self._latest = 0
        self._unsent: dict[int, tuple[bytes, bool]] = {}
        self._limits: deque[int] = deque()
        self._allowed = _UNLIMITED
        self._draining: set[int] | None = None
        self._break_off: Callable[[], None] | None = None
        self._read = 0
        self._flushing = False
        self._h2 = _Connection(
            H2Configuration(client_side=False, validate_outbound_headers=False, normalize_outbound_headers=False)
        )
        self._h2.on_reset = self._cancelled
        self._on: dict[type[events.Event], Callable[[Any], None]] = {
            events.RequestReceived: self._headers,
            events.DataReceived: self._data,
            events.StreamEnded: self._ended,
            events.StreamReset: self._reset,
            events.WindowUpdated: self._window,
            events.RemoteSettingsChanged: self._window,
            events.SettingsAcknowledged: self._acknowledged,
            events.PingAckReceived: self._read_all,
            events.ConnectionTerminated: self._terminated,
        }
        self._begin(handler.full_streams if certified else handler.first_streams)

    def receive(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                # A request that is cancelled in the segment that it came in is gone before it is looked at.
                if (action := self._on.get(type(event))) is not None:
                    with suppress(StreamClosedError):
                        action(event)
        except ProtocolError:
            self._flush()
            self._transport.close()
        else:
            self._flush()

    def perform(self, call: Call, answer: Answer) -> None:
        stream = call.stream
        if not self.processes(call) or self._transport.is_closing():
            return
        if answer.action == "drop":
            self._part(self._transport.abort)
        elif answer.action == "hang":
            self._hung.add(stream)
            self._drained(stream)
        elif answer.action == "reset":
            self._h2.reset_stream(stream, answer.code)
            self._finish(stream)
        else:
            self._answer(stream, answer)
            call.answered = answer.status
        self._flush_soon()

    def limit(self, streams: int) -> None:
        frame = SettingsFrame(0)
        frame.settings = {SettingCodes.MAX_CONCURRENT_STREAMS: streams}
        self._limits.append(streams)
        self._write(frame.serialize())

    def goaway(self, last: Last, code: int, debug: bytes) -> None:
        if self._draining is not None:
            return  # one is enough, and a later one must not take back what the first refused
        waiting = sorted(self._open.keys() - self._hung)
        chosen = waiting[: {"all": len(waiting), "some": len(waiting) // 2, "none": 0}[last]]
        refused = waiting[len(chosen) :]
        # Not h2's highest stream: that counts requests of the same segment which have not been looked at yet.
        final = refused[0] - 2 if refused else self._latest
        frame = GoAwayFrame(0, last_stream_id=max(final, 0), error_code=code, additional_data=debug)
        self._draining = set(chosen)
        # Written past h2, which after a GOAWAY of its own would send nothing more, not even the answers still due.
        self._write(frame.serialize())
        self._drained(0)

    def processes(self, call: Call) -> bool:
        return call.stream in self._open and (self._draining is None or call.stream in self._draining)

    def close(self) -> None:
        self._transport.abort()

    def _begin(self, streams: int) -> None:
        self._h2.local_settings = Settings(
            client=False, initial_values={**_SETTINGS, SettingCodes.MAX_CONCURRENT_STREAMS: streams}
        )
        self._h2.initiate_connection()
        self._h2.local_settings = Settings(
            client=False, initial_values={**_SETTINGS, SettingCodes.MAX_CONCURRENT_STREAMS: _UNLIMITED}
        )
        self._h2.decoder.max_header_list_size = _SETTINGS[SettingCodes.MAX_HEADER_LIST_SIZE]
        self._limits.append(streams)
        self._flush()

    def _headers(self, event: events.RequestReceived) -> None:
        stream = self._latest = event.stream_id
        if len(self._open) >= self._allowed:
            self._h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            self._handler.refused(self)
            return
        self._open[stream] = _Request([(bytes(name), bytes(value)) for name, value in event.headers])

    def _data(self, event: events.DataReceived) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if (request := self._open.get(event.stream_id)) is not None:
            request.body.append(event.data)

    def _ended(self, event: events.StreamEnded) -> None:
        request = self._open.get(event.stream_id)
        if request is None:
            return
        pseudo = dict(request.headers[:4])
        call = self._calls[event.stream_id] = Call(
            server=self._handler.name,
            connection=self.number,
            stream=event.stream_id,
            method=pseudo.get(b":method", b"").decode(errors="replace"),
            path=pseudo.get(b":path", b"").decode(errors="replace"),
            headers=request.headers,
            body=b"".join(request.body),
            certified=self._certified,
            cancelled=event.stream_id in self._cancelled_unseen,
        )
        call.ignored = not self.processes(call)
        self._handler.received(self, call)

    def _reset(self, event: events.StreamReset) -> None:
        self._finish(event.stream_id)

    def _cancelled(self, stream: int) -> None:
        if stream in self._calls:
            self._calls[stream].cancelled = True
        else:
            self._cancelled_unseen.add(stream)

    def _window(self, _event: events.Event) -> None:
        for stream in list(self._unsent):
            self._send_rest(stream)

    def _acknowledged(self, _event: events.SettingsAcknowledged) -> None:
        if self._limits:
            self._allowed = self._limits.popleft()

    def _part(self, break_off: Callable[[], None]) -> None:
        """Answer nothing more, and end the connection once the client has read what was sent."""
        if self._break_off is None and not self._transport.is_closing():
            self._draining = set()
            self._break_off = break_off
            self._ask_whether_read()
            asyncio.get_running_loop().call_later(_LINGER, break_off)

    def _ask_whether_read(self) -> None:
        self._h2.ping(b"parting.")
        self._flush_soon()

    def _read_all(self, _event: events.PingAckReceived) -> None:
        if self._break_off is None:
            return
        self._read += 1
        if self._read < _ASKED:
            self._ask_whether_read()
        else:
            self._break_off()

    def _terminated(self, _event: events.ConnectionTerminated) -> None:
        self._transport.close()

    def _answer(self, stream: int, answer: Answer) -> None:
        body, half = answer.body, answer.action in ("half", "cut")
        headers = [(b":status", b"%d" % answer.status), *answer.headers]
        if half:
            body = body[: (len(body) + 1) // 2] or b"{"
        self._h2.send_headers(stream, headers, end_stream=not body)
        if body:
            self._unsent[stream] = (body, not half)
            self._send_rest(stream)
        else:
            self._finish(stream)
        if answer.action == "half":
            self._part(self._transport.close)
        elif answer.action == "cut":
            self._h2.reset_stream(stream, answer.code)
            self._finish(stream)

    def _send_rest(self, stream: int) -> None:
        body, ends = self._unsent[stream]
        while body:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                self._unsent[stream] = (body, ends)
                return
            self._h2.send_data(stream, body[:room], end_stream=ends and len(body) <= room)
            body = body[room:]
        del self._unsent[stream]
        if ends:
            self._finish(stream)

    def _finish(self, stream: int) -> None:
        self._open.pop(stream, None)
        self._unsent.pop(stream, None)
        self._hung.discard(stream)
        self._drained(stream)

    def _drained(self, stream: int) -> None:
        if self._draining is not None:
            self._draining.discard(stream)
            if not self._draining:
                self._part(self._transport.close)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._write(b"")

    def _write(self, frame: bytes) -> None:
        data = self._h2.data_to_send() + frame
        if data and not self._transport.is_closing():
            self._transport.write(data)
