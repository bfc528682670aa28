"""The server's half of one HTTP/1.1 connection: one request at a time, bodies by content-length only."""

from __future__ import annotations

import asyncio

from app.demo.standin.values import Answer, Call, Handler, Last

_MAX_HEAD = 64 * 1024


class BadRequest(Exception):
    """The bytes are not a request that this server reads."""


class Http1:
    def __init__(self, number: int, handler: Handler, transport: asyncio.Transport, *, certified: bool) -> None:
        self.number = number
        self._handler = handler
        self._transport = transport
        self._certified = certified
        self._buffer = b""
        self._current: Call | None = None

    def receive(self, data: bytes) -> None:
        self._buffer += data
        if self._current is None:
            self._next()

    def perform(self, call: Call, answer: Answer) -> None:
        if call is not self._current or self._transport.is_closing() or answer.action == "hang":
            return
        if answer.action in ("drop", "reset"):
            self._transport.abort()
            return
        call.answered = answer.status
        half = answer.action in ("half", "cut")
        body = answer.body or (b"{}" if half else b"")
        headers = (*answer.headers, (b"content-length", b"%d" % len(body)))
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        sent = body[: (len(body) + 1) // 2] if half else body
        self._transport.write(b"HTTP/1.1 %d \r\n%s\r\n%s" % (answer.status, head, sent))
        self._current = None
        if half:
            self._transport.close()
        elif self._buffer:
            asyncio.get_running_loop().call_soon(self._next)

    def limit(self, streams: int) -> None:
        """HTTP/1.1 has one request at a time anyhow."""

    def goaway(self, last: Last, code: int, debug: bytes) -> None:
        self._transport.close()

    def processes(self, call: Call) -> bool:
        return call is self._current

    def close(self) -> None:
        self._transport.abort()

    def _next(self) -> None:
        if self._current is not None:
            return
        try:
            call = self._parse()
        except BadRequest:
            self._transport.write(b"HTTP/1.1 400 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self._transport.close()
            return
        if call is not None:
            self._current = call
            self._handler.received(self, call)

    def _parse(self) -> Call | None:
        """The next request in the buffer, None while it is incomplete; raises BadRequest."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(head) > _MAX_HEAD:
                raise BadRequest
            return None
        first, *lines = head.split(b"\r\n")
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        try:
            method, path, _version = first.decode().split(" ")
            length = int(dict(headers).get(b"content-length", b"0"))
        except ValueError:
            raise BadRequest from None
        if length < 0 or b"transfer-encoding" in dict(headers):
            raise BadRequest
        if len(rest) < length:
            return None
        self._buffer = rest[length:]
        return Call(
            server=self._handler.name,
            connection=self.number,
            stream=0,
            method=method,
            path=path,
            headers=headers,
            body=rest[:length],
            certified=self._certified,
        )
