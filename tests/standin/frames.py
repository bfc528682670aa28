"""An HTTP/2 client that hides nothing: it sends requests as frames and hands back the frames that come."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

from hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_TIMEOUT = 5.0


class FrameClient:
    """One connection, with HTTP/2 by prior knowledge. `received` holds every frame so far, oldest first."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        address = urlsplit(url)
        plain = socket.create_connection((address.hostname, address.port), timeout=_TIMEOUT)
        self._socket = context.wrap_socket(plain, server_hostname=address.hostname)
        self._buffer = b""
        self._encoder = Encoder()
        self._decoder = Decoder()
        self.received: list[Frame] = []
        self._socket.sendall(_PREFACE + SettingsFrame(0).serialize())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, stream: int, path: str, headers: dict[str, str], body: bytes, cancelled: bool = False) -> None:
        """A request, and in the same segment that it is `cancelled`."""
        pseudo = {":method": "POST", ":scheme": "https", ":authority": "localhost", ":path": path}
        head = HeadersFrame(stream, data=self._encoder.encode([*pseudo.items(), *headers.items()]))
        head.flags.add("END_HEADERS")
        data = DataFrame(stream, data=body)
        data.flags.add("END_STREAM")
        reset = RstStreamFrame(stream, error_code=8).serialize() if cancelled else b""
        self._socket.sendall(head.serialize() + data.serialize() + reset)

    def cancel(self, stream: int) -> None:
        self._socket.sendall(RstStreamFrame(stream, error_code=8).serialize())

    def acknowledge(self) -> None:
        """Accept the server's settings, so that it may count on them."""
        frame = SettingsFrame(0)
        frame.flags.add("ACK")
        self._socket.sendall(frame.serialize())

    def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Read up to the first frame that is wanted; EOFError if the server closes before."""
        while True:
            frame = self._read()
            self.received.append(frame)
            if wanted(frame):
                return frame

    def to_end(self) -> None:
        """Read all there is until the server closes."""
        try:
            self.until(lambda _: False)
        except EOFError:
            return

    def of(self, kind: type[Frame]) -> list[Frame]:
        return [frame for frame in self.received if isinstance(frame, kind)]

    def status(self, frame: Frame) -> int:
        """Each HEADERS frame must be read once and in order, for the sake of HPACK."""
        assert isinstance(frame, HeadersFrame)
        return int(dict(self._decoder.decode(frame.data, raw=True))[b":status"])

    def _read(self) -> Frame:
        frame, length = Frame.parse_frame_header(memoryview(self._take(9)))
        frame.parse_body(memoryview(self._take(length)))
        if isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            answer = PingFrame(0, opaque_data=frame.opaque_data)
            answer.flags.add("ACK")
            self._socket.sendall(answer.serialize())
        return frame

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                more = self._socket.recv(65536)
            except (ConnectionError, ssl.SSLError) as error:
                raise EOFError from error
            if not more:
                raise EOFError
            self._buffer += more
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken
