"""The only network code: requests to vendors over HTTP/2 on a few connections, every wait bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib.metadata import version
from typing import Any, TypeVar

from msgspec import Struct
from pyreqwest.client import Client as HttpClient
from pyreqwest.client import ClientBuilder, SyncClientBuilder
from pyreqwest.client.types import TlsVersion
from pyreqwest.exceptions import PyreqwestError, RequestError, RequestTimeoutError
from pyreqwest.http import HeaderMap, Url
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import RequestBody, StreamRequest
from pyreqwest.response import Response as Answer

from providers.kit.base import Request, Response, Transport, Unreachable
from providers.kit.values import Network

USER_AGENT = f"pushbridge/{version('pushbridge')}"

_CONNECT_LIMIT = 10.0
_IDLE = timedelta(hours=1)  # Apple takes often closed and opened connections for an attack
_PING_EVERY = timedelta(seconds=10)
_PING_ANSWER = timedelta(seconds=5)
_TCP_PROBE = timedelta(seconds=60)
_FIRST_ANSWER = 1 / 6
"""Share of the time-out that others wait for the first answer on a new connection before another is opened."""
_OLDEST_TLS: TlsVersion = "TLSv1.2"
_MALFORMED = "no valid request: its address or a header is malformed"
"""In place of the library's own words, which may be the URL or a header: a device's token, a credential."""


_Builder = TypeVar("_Builder", ClientBuilder, SyncClientBuilder)


class Client:
    """The connections to one vendor. It belongs to one event loop and connects only when something is sent.

    A further connection is opened when the open ones carry `transport.streams` requests each. Beyond `capacity`
    requests wait for a free stream, inside their time-out. Raises ValueError for a transport that cannot work.
    """

    def __init__(self, transport: Transport) -> None:
        self.capacity = transport.max_connections * transport.streams
        self._transport = transport
        self._base = transport.endpoint.rstrip("/")
        self._connections = [_Connection(_http_client(transport))]

    async def send(self, request: Request) -> Response:
        """Send once and return the answer, whatever its status; redirects are answers too.

        When the answer breaks off in its body, the status stands and the body is empty: it was processed.
        Raises Unreachable where no status came, or nothing could be sent; the reason names no URL and no header.
        """
        while (connection := self._choose()) is None:
            await self._connections[-1].first.wait()
        connection.inflight += 1
        try:
            async with connection.request(request, self._base) as answer:
                return Response(
                    answer.status, _headers(answer.headers), await _body(answer, self._transport.body_limit)
                )
        except RequestError as error:
            raise Unreachable(_reason(error)) from None
        except ValueError:
            raise Unreachable(_MALFORMED) from None
        finally:
            connection.end()

    async def reconnect(self) -> None:
        """Send everything from now on over new connections; the old ones end with what they still carry."""
        self._connections = [_Connection(_http_client(self._transport))]

    async def close(self) -> None:
        """Give up what is in flight (Unreachable) and end the connections."""
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.client.close()

    def _choose(self) -> _Connection | None:
        """The connection for the next request; None while the first answer on a new one is waited for.

        APNs allows one stream until it has seen a valid token, so what is sent behind a first request that is never
        answered would share its time-out.
        """
        if not self._connections:
            raise Unreachable("the client is closed")
        for connection in self._connections:
            if connection.proved and connection.inflight < self._transport.streams:
                return connection
        newest = self._connections[-1]
        if newest.first.is_set():
            if len(self._connections) == self._transport.max_connections:
                return min(self._connections, key=_load)
            newest = _Connection(_http_client(self._transport))
            self._connections.append(newest)
        if newest.inflight == 0:
            newest.prove(self._transport.timeout * _FIRST_ANSWER)
            return newest
        return min((found for found in self._connections if found.proved), key=_load, default=None)


class BlockingAnswer(Struct, frozen=True):
    """An answer with the names of `google.auth.transport.Response`."""

    status: int
    headers: Mapping[str, str]
    data: bytes


def blocking(transport: Transport) -> Callable[..., BlockingAnswer]:
    """A callable with the signature of `google.auth.transport.Request`, for threads: same CA, proxy and time-outs.

    It opens a connection a call, as tokens are fetched once an hour; the endpoint of the transport plays no part.
    Raises Unreachable where no answer came.
    """

    def call(
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> BlockingAnswer:
        seconds = min(timeout or transport.timeout, transport.timeout)
        builder = _configured(SyncClientBuilder(), transport).timeout(timedelta(seconds=seconds))
        try:
            with (
                builder.build() as client,
                client.request(method, url).headers(headers or {}).body_bytes(body or b"").build_streamed() as answer,
            ):
                part = answer.body_reader.read(transport.body_limit)
                return BlockingAnswer(answer.status, _headers(answer.headers), part.to_bytes() if part else b"")
        except RequestError as error:
            raise Unreachable(_reason(error)) from None
        except ValueError:
            raise Unreachable(_MALFORMED) from None

    return call


def transport(
    config: Network, endpoint: str, *, identity: bytes = b"", streams: int = 100, http1: bool = False
) -> Transport:
    """The transport that a provider's block asks for, `endpoint` being the vendor's own.

    Raises ValueError that names the key of the block which is wrong.
    """
    base = config.endpoint or endpoint
    if not is_base(base):
        raise ValueError(f"endpoint: what was found is no base URL such as {endpoint}")
    if config.proxy and not _usable(config.proxy):
        raise ValueError("proxy: what was found is no URL such as http://user:password@proxy.example:3128")
    if config.ca and b"-----BEGIN CERTIFICATE-----" not in config.ca.raw:
        raise ValueError("ca_file: holds no certificate; PEM text is wanted, with BEGIN CERTIFICATE in it")
    made = Transport(
        endpoint=base,
        ca=config.ca.raw,
        proxy=config.proxy,
        identity=identity,
        timeout=config.timeout,
        max_connections=config.max_connections,
        streams=streams,
        http1=http1,
    )
    for key, field in (("ca_file", "ca"), ("proxy", "proxy"), ("cert_file", "identity")):
        if not getattr(made, field):
            continue
        try:
            _http_client(Transport(endpoint=base, **{field: getattr(made, field)}))
        except ValueError as error:
            raise ValueError(f"{key}: cannot be used: {error}") from None
    return made


def is_base(url: str) -> bool:
    """Whether this is the address of a server, and perhaps a path, to which the path of a request can be added."""
    return _usable(url) and not set("?#@") & set(url)


def _usable(url: str) -> bool:
    try:
        parsed = Url.parse(url)
    except ValueError:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host_str)


class _Connection:
    """One HTTP/2 connection, or one pool of HTTP/1.1 connections, and how many requests it carries.

    first: set when the first request has ended, or has taken too long to be waited for. proved: it has ended.
    """

    __slots__ = ("_templates", "client", "first", "inflight", "proved")

    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self.inflight = 0
        self.proved = False
        self.first = asyncio.Event()
        self._templates: dict[str, StreamRequest] = {}

    def request(self, request: Request, base: str) -> StreamRequest:
        """A request of pyreqwest's. A fresh one lets go of the interpreter, which beside a busy thread costs five
        times what it does; a copy does not.
        """
        template = self._templates.get(request.method)
        if template is None:
            # With a larger limit the status would be lost with a body that breaks off; 0 costs a tenth of the speed.
            builder = self.client.request(request.method, base).streamed_read_buffer_limit(1)
            template = self._templates[request.method] = builder.build_streamed()
        copy = template.copy()
        copy.url = base + request.path
        copy.headers = request.headers
        copy.body = RequestBody.from_bytes(request.body)
        return copy

    def prove(self, patience: float) -> None:
        """The first request is about to be sent; others wait for its end up to `patience` seconds."""
        asyncio.get_running_loop().call_later(patience, self.first.set)

    def end(self) -> None:
        self.inflight -= 1
        if not self.proved:
            self.proved = True
            self.first.set()


def _load(connection: _Connection) -> int:
    return connection.inflight


def _http_client(transport: Transport) -> HttpClient:
    """A pyreqwest client. It keeps one HTTP/2 connection per host, so more connections are more clients.

    With ALPN a burst on a fresh client opens a connection for each request, with prior knowledge one in all.
    """
    builder = _configured(ClientBuilder(), transport).pool_idle_timeout(_IDLE).tcp_keepalive(_TCP_PROBE)
    if transport.http1:
        builder = builder.http1_only().pool_max_idle_per_host(transport.streams)
    else:
        builder = (
            builder.http2_prior_knowledge()
            .http2_keep_alive_interval(_PING_EVERY)
            .http2_keep_alive_timeout(_PING_ANSWER)
        )
    return _built(builder.timeout(timedelta(seconds=transport.timeout)))


def _built(builder: ClientBuilder) -> HttpClient:
    try:
        return builder.build()
    except PyreqwestError as error:
        raise ValueError(_reason(error)) from None


def _configured(builder: _Builder, transport: Transport) -> _Builder:
    """What both kinds of client have in common. Proxy settings of the environment are not looked at."""
    builder = (
        builder.user_agent(USER_AGENT)
        .connect_timeout(timedelta(seconds=min(_CONNECT_LIMIT, transport.timeout)))
        .follow_redirects(False)
        .referer(False)
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .tcp_nodelay(True)
        .min_tls_version(_OLDEST_TLS)
        .no_proxy()
    )
    if transport.proxy:
        builder = builder.proxy(ProxyBuilder.all(transport.proxy))
    if transport.ca:
        builder = builder.add_root_certificate_pem(transport.ca)
    if transport.identity:
        builder = builder.identity_pem(transport.identity)
    return builder


async def _body(answer: Answer, limit: int) -> bytes:
    """At most `limit` bytes; b"" for a body that breaks off, as the status has been given by then."""
    try:
        part = await answer.body_reader.read(limit)
    except RequestError:
        return b""
    return b"" if part is None else part.to_bytes()


def _headers(found: HeaderMap) -> dict[str, str]:
    try:
        return dict(found.items())
    except ValueError:
        return _readable_headers(found)


def _readable_headers(found: HeaderMap) -> dict[str, str]:
    """The headers without those whose value is not ASCII: RFC 9110 calls such values opaque."""
    kept = {}
    for name in found.keys():  # noqa: SIM118 (a HeaderMap is no dict)
        try:
            kept[name] = found[name]
        except ValueError:
            continue
    return kept


def _reason(error: PyreqwestError) -> str:
    """The innermost cause in a few words. The outer ones name the URL, and with it the device."""
    if isinstance(error, RequestTimeoutError):
        return "timed out"
    details = getattr(error, "details", None) or {}
    causes = [cause["message"] for cause in details.get("causes") or []]
    told = [message for message in causes if "://" not in message.partition(": https://docs.rs")[0]]
    return (told[-1] if told else error.message).partition(": https://docs.rs")[0][:160]
