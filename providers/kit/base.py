"""The contract between the bridge and a provider: values in, values out.

A provider describes a request and reads an answer. It does no I/O: `providers.kit.http` sends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from msgspec import Struct


class Quiet(Struct, frozen=True):
    """A value that may hold what must not reach a log: its repr has the fields named in `shown` and no others."""

    shown: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        fields = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.shown)
        return f"{type(self).__name__}({fields})"


class Notice(Quiet, frozen=True, kw_only=True):
    """One notification, the same for every device that it goes to; the vendor's form of it is `prepare`d once.

    message_id: decimal; the collapse id, so that a repeat replaces what is on the screen.
    thread: groups notifications by conversation.
    data: the keys the app gets beside the text.
    expires_at: UNIX seconds after which the push is worth nothing; None = keep it as long as the vendor does.
    """

    shown = ("message_id",)

    message_id: str
    title: str
    body: str
    thread: str
    data: Mapping[str, str | int]
    expires_at: int | None = None
    sound: str = "default"


class Target(Quiet, frozen=True):
    """The device that a prepared notice goes to.

    push_id: a lower-case UUID, the same at every attempt for this message and device.
    """

    shown = ("device_id", "push_id")

    device_id: str
    token: str
    push_id: str


class Request(Quiet, frozen=True):
    """One HTTP request, `path` relative to the provider's endpoint, header names in lower case."""

    shown = ("method",)

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Response(Quiet, frozen=True):
    """What the vendor answered; header names in lower case. `body` may be anything, or cut short."""

    shown = ("status",)

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unreachable(Exception):
    """No answer came: the push may or may not have gone out, so it is sent again under the same ids."""


class Delivered(Struct, frozen=True):
    """The vendor took the push. `provider_id` is its name for it."""

    provider_id: str


class Retry(Struct, frozen=True):
    """Not this time.

    after: seconds the vendor asked for. reconnect: this connection is not to be trusted.
    device: it is about this one device, and says nothing of the vendor.
    """

    reason: str
    after: float | None = None
    reconnect: bool = False
    device: bool = False


class Throttled(Struct, frozen=True):
    """The vendor is overrun by all of us: nothing more to it for `after` seconds. Costs no attempt.

    reconnect: this connection is not to be trusted.
    """

    reason: str
    after: float
    reconnect: bool = False


class TokenInvalid(Struct, frozen=True):
    """The device token is dead.

    since: UNIX milliseconds when the vendor saw it die; a registration after that is alive.
    suspect: the vendor says the same when *our* settings are wrong, so many of these together are not believed.
    """

    reason: str
    since: int | None = None
    suspect: bool = False


class Rejected(Struct, frozen=True):
    """This push can never be taken as it is built."""

    reason: str


class TooLarge(Struct, frozen=True):
    """Over the vendor's size limit: to be prepared again with a smaller budget, once."""

    reason: str


class Misconfigured(Struct, frozen=True):
    """Our credential, key, topic or project is refused: the provider pauses and an operator must look.

    renew: a fresh credential on a fresh connection may heal it, so that is tried once before the pause.
    """

    reason: str
    renew: bool = False


Outcome = Delivered | Retry | Throttled | TokenInvalid | Rejected | TooLarge | Misconfigured


class Transport(Quiet, frozen=True, kw_only=True):
    """How to reach the vendor; `providers.kit.http.Client` is built from it.

    identity: PEM of a client certificate and its key, for vendors that know us by it.
    streams: requests at once on one connection.
    http1: the vendor speaks HTTP/1.1 only; a request at once is a connection then.
    body_limit: bytes of an answer that are read, the rest is cut off; no vendor's answer comes near it.
    """

    shown = ("endpoint", "timeout", "max_connections", "streams", "http1")

    endpoint: str
    ca: bytes = b""
    proxy: str = ""
    identity: bytes = b""
    timeout: float = 15.0
    max_connections: int = 4
    streams: int = 100
    http1: bool = False
    body_limit: int = 64 * 1024


class Send(Protocol):
    """Sends one request and returns the answer, or raises Unreachable."""

    async def __call__(self, request: Request) -> Response: ...


class Credential(Protocol):
    """What a provider authenticates with. Renewal happens away from the send path.

    renewals: how often a header was got.
    """

    renewals: int

    @property
    def header(self) -> str:
        """The current value of the authorization header; `ready` was awaited before."""
        ...

    async def ready(self) -> None:
        """Return once `header` may be used; raises Unreachable or CredentialRefused where none can be had."""
        ...

    def refuse(self, header: str) -> None:
        """The vendor refused this header: get another, unless that has been done already."""
        ...


class CredentialRefused(Exception):
    """The issuer of tokens refuses our key. The message is the vendor's word for it, without secrets."""


class Provider(ABC):
    """One configured block of `providers:`. `name` is what devices are registered with.

    transport: None for a provider that needs no network.
    local: sends in place of the HTTP client where there is no transport; exactly one of the two is set.
    credential: None where the connection itself authenticates, or nothing does.
    soonest: seconds before a push is sent again that got no answer (Unreachable); what an answer says goes by `read`.
    ramp: seconds in which sending grows to full speed after a pause, where the pause was not shorter.
    """

    name: str
    transport: Transport | None = None
    local: Send | None = None
    credential: Credential | None = None
    soonest: float = 0.0
    ramp: float = 10.0

    @abstractmethod
    def prepare(self, notice: Notice, budget: int | None = None) -> Any:
        """All that is the same for every device of this notice.

        budget: bytes that the message may have, where the vendor's usual limit was not small enough.
        """

    @abstractmethod
    def request(self, prepared: Any, target: Target) -> Request:
        """The request for one device."""

    @abstractmethod
    def read(self, response: Response) -> Outcome:
        """What the answer means. Never raises, whatever the body."""

    @abstractmethod
    def describe(self) -> str:
        """One line for `pushbridge check`: what would be sent where, and by which credential; no secret."""
