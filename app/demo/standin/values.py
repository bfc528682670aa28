"""What passes between the wire, the vendors and the recorder of the stand-in."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

Headers = tuple[tuple[bytes, bytes], ...]
Last = Literal["all", "none", "some"]


class Call(Struct):
    """One request as it came.

    stream: 0 on HTTP/1.1. headers: in wire order, pseudo headers included.
    device: the device token that it names, "" where there is none.
    certified: the TLS peer showed a client certificate.
    answered: the status that was sent, None until then. cancelled: the client reset the stream, be
        it when the answer was on its way.
    fault: the name of the fault that it was hit by, "" for none.
    ignored: it came when its connection took nothing any more, as after GOAWAY.
    """

    server: str
    connection: int
    stream: int
    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    certified: bool = False
    n: int = 0
    device: str = ""
    answered: int | None = None
    cancelled: bool = False
    fault: str = ""
    ignored: bool = False


class Answer(Struct, frozen=True):
    """What the wire is to do about a call; `action` "answer", "half" and "cut" send status, headers and body."""

    status: int = 200
    headers: Headers = ()
    body: bytes = b""
    action: Literal["answer", "hang", "reset", "drop", "half", "cut"] = "answer"
    code: int = 0
    delay: float = 0.0


class Scripted(Struct, frozen=True, forbid_unknown_fields=True):
    """One scripted answer, as a test writes it.

    action: "answer" sends status, headers and body. "default" leaves the answer to the vendor. "hang" never answers.
        "reset" sends RST_STREAM with `code`, "refuse" with REFUSED_STREAM. "drop" breaks the connection off. "half"
        sends the headers and half of the body and then closes the connection. Over HTTP/2 neither happens before
        the client has read what was sent earlier, so an answer that is recorded is an answer that came. "cut" is
        like "half", but ends the stream only, with RST_STREAM and `code`.
    status: where it is absent the vendor's own answer is used in whole.
    headers: added to the vendor's usual ones; None takes one away.
    body: JSON for an object or a list, text as it is, nothing for null or when absent.
    delay: seconds before any of this. forever: this answer is not used up.
    """

    action: Literal["answer", "default", "hang", "reset", "refuse", "drop", "half", "cut"] = "answer"
    status: int | None = None
    headers: dict[str, str | None] = {}
    body: Any = None
    code: int = 2
    delay: float = 0.0
    forever: bool = False

    def payload(self) -> bytes:
        if self.body is None:
            return b""
        return self.body.encode() if isinstance(self.body, str) else msgspec.json.encode(self.body)


class Peer(Protocol):
    """A client's connection, as a server uses it."""

    number: int

    def perform(self, call: Call, answer: Answer) -> None:
        """Carry the answer out; nothing happens where the stream or the connection has gone."""

    def limit(self, streams: int) -> None:
        """Announce how many requests may be open at once."""

    def goaway(self, last: Last, code: int, debug: bytes) -> None:
        """Refuse new requests, finish all, none or the lower half of the open ones, then close."""

    def processes(self, call: Call) -> bool:
        """Whether the call is still to be answered, here and after any GOAWAY."""

    def close(self) -> None:
        """Break the connection off."""


class Handler(Protocol):
    """What a listening port hands its connections and requests to.

    first_streams, full_streams: requests at once on a new connection, and once a request was accepted.
    """

    name: str
    first_streams: int
    full_streams: int

    def connected(self, peer: Peer) -> None: ...

    def disconnected(self, peer: Peer) -> None: ...

    def received(self, peer: Peer, call: Call) -> None: ...

    def refused(self, peer: Peer) -> None:
        """The client opened more streams than it was allowed."""
