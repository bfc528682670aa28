"""From a TCP or TLS connection to the protocol that is spoken on it."""

from __future__ import annotations

import asyncio
import itertools
from typing import cast

from app.demo.standin.http1 import Http1
from app.demo.standin.http2 import Http2
from app.demo.standin.values import Handler

_PREFACE = b"PRI * HTTP/2.0"
_numbers = itertools.count(1)


class Wire(asyncio.Protocol):
    """HTTP/2 where ALPN says so or, for clients with prior knowledge, the first bytes do; else HTTP/1.1."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._number = next(_numbers)
        self._transport: asyncio.Transport | None = None
        self._peer: Http1 | Http2 | None = None
        self._first = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._choose(Http2)

    def data_received(self, data: bytes) -> None:
        if self._peer is None:
            self._first += data
            if len(self._first) < len(_PREFACE) and _PREFACE.startswith(self._first):
                return
            self._choose(Http2 if self._first.startswith(_PREFACE) else Http1)
            data = self._first
        if self._peer is not None:
            self._peer.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._peer is not None:
            self._handler.disconnected(self._peer)

    def _choose(self, kind: type[Http1] | type[Http2]) -> None:
        transport = self._transport
        if transport is None:
            return
        certified = bool(transport.get_extra_info("peercert"))
        self._peer = kind(self._number, self._handler, transport, certified=certified)
        self._handler.connected(self._peer)
