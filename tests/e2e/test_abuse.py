"""Whatever is posted: no crash, no 5xx but 503, memory bounded, and good traffic is answered meanwhile."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.demo.standin import StandinProcess
from tests.deploy.nginx import nginx
from tests.e2e.service import Service, offline, until

SECRET = "hunter2"
EVENTS = ["msg.offline", "msg.notify", "user.onlinestatus", "other", ""]
MEMORY = {False: 600, True: 800}
"""MiB that a web process (False) or a dispatcher (True) may ever have had. They start with about 80, a hostile body may
become 300; a web process has those of eight calls beside it, and a dispatcher holds what another became."""
HUGE = 100 << 20


@pytest.fixture(scope="module")
def limit(soak: bool) -> int:
    """Bytes of one body at most: the short form does with less."""
    return (8 if soak else 1) << 20


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, standin_process: StandinProcess, limit: int) -> Iterator[Service]:
    webhook = {"secret": SECRET, "max_body": f"{limit}B"}
    service = Service(tmp_path_factory.mktemp("abuse"), standin_process, webhook=webhook).start()
    yield service
    service.kill()


def authorised(service: Service, event: str, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
    try:
        connection.request("POST", f"/webhook/{SECRET}?event={event}", body)
        with connection.getresponse() as answer:
            return answer.status
    finally:
        connection.close()


@contextmanager
def good_traffic(service: Service, port: int | None = None) -> Iterator[None]:
    """Well-behaved calls all the while, one after another: they are answered, and the last one is taken."""
    done = threading.Event()
    statuses: list[int | str] = []

    def post() -> None:
        while not done.is_set() or not statuses:
            connection = http.client.HTTPConnection("127.0.0.1", port or service.port, timeout=30)
            try:
                connection.request(
                    "POST", f"/webhook/{SECRET}?event=msg.offline", json.dumps(offline(["good"])).encode()
                )
                with connection.getresponse() as answer:
                    statuses.append(answer.status)
            except OSError as error:
                statuses.append(repr(error))
            finally:
                connection.close()
            done.wait(0.02)

    thread = threading.Thread(target=post)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    # On a machine that is busy enough the disk may be late for one: that is 503.
    assert set(statuses) <= {200, 503}, statuses
    assert statuses.count(200) > len(statuses) / 2
    until(lambda: authorised(service, "msg.offline", json.dumps(offline(["good"])).encode()) == 200, "one is taken")


@contextmanager
def unharmed(service: Service) -> Iterator[None]:
    """The processes are the same afterwards, and none was ever larger than it may be."""
    before = sorted(service.pids())
    yield
    assert sorted(service.pids()) == before
    for pid in before:
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert peak
        what = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert int(peak[1]) < MEMORY[b"dispatch" in what] << 10, what
    assert [line for line in service.output.read_text().splitlines() if '"exception"' in line] == []


def raw(service: Service, head: str, body: Iterator[bytes] | list[bytes] = ()) -> int:  # type: ignore[assignment]
    """Send a request as it stands; the status of the answer, however the connection ends."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head.encode("latin-1"))
            for chunk in body:
                connection.sendall(chunk)
        with suppress(ConnectionResetError):
            answer = connection.recv(64)
            return int(answer.split()[1]) if answer else 0
    return 0


def post(path: str, *headers: str) -> str:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""])


def bomb(mebibytes: int) -> bytes:
    """A message whose recipient list becomes as long as that, after one who is named plainly."""
    packer = zlib.compressobj(6, wbits=31)
    block = bytes(1 << 20)
    packed = b"".join(packer.compress(block) for _ in range(mebibytes)) + packer.flush()
    text = base64.b64encode(packed).decode()
    return json.dumps(offline(["bombed"], compress="gzip", compress_to_uids=text)).encode()


@pytest.mark.soak
def test_bodies_that_are_too_much(guarded: Service, limit: int) -> None:
    path = f"/webhook/{SECRET}?event=msg.offline"
    with unharmed(guarded), good_traffic(guarded):
        assert raw(guarded, post(path, f"Content-Length: {HUGE}")) == 413
        some = (bytes(1 << 16) for _ in range(HUGE >> 16))
        assert raw(guarded, post(path, f"Content-Length: {HUGE}"), some) in (413, 0)
        endless = (b"10000\r\n" + bytes(1 << 16) + b"\r\n" for _ in range(HUGE >> 16))
        assert raw(guarded, post(path, "Transfer-Encoding: chunked"), endless) in (413, 0)
        assert raw(guarded, post("/webhook/wrong?event=msg.offline", f"Content-Length: {HUGE}")) == 401
        for unit in (b"[", b"[],", b'{"a":', b"1,", b"\0"):
            body = (b"" if unit in (b"[", b'{"a":') else b"[") + unit * (limit // len(unit) - 3) + b"1]"
            with ThreadPoolExecutor(6) as threads:
                kinds = ("msg.offline", "user.onlinestatus", "msg.notify") * 2
                assert set(threads.map(partial(authorised, guarded, body=body), kinds)) <= {200, 400, 503}
        assert authorised(guarded, "msg.offline", bomb(limit >> 13)) == 200
        until(lambda: guarded.trace(uid="bombed"), "the bomb is planned", 60)


def test_headers_that_are_too_much(guarded: Service) -> None:
    path = f"/webhook/{SECRET}?event=msg.notify"
    with unharmed(guarded):
        assert raw(guarded, post(path, "Content-Length: 2"), [b"[]"]) == 200
        many = [f"X-{n}: x" for n in range(80)]
        assert raw(guarded, post(path, *many, "Content-Length: 2"), [b"[]"]) in (400, 431)
        assert raw(guarded, post(path, "X: " + "x" * 20_000, "Content-Length: 2"), [b"[]"]) in (400, 431)
        assert raw(guarded, post(path + "&x=" + "x" * (300 << 10), "Content-Length: 2"), [b"[]"]) in (400, 414)
        assert raw(guarded, post(path), (b"X: x\r\n" for _ in range(1 << 20))) in (400, 431, 0)
        assert raw(guarded, "POST " + "x" * (8 << 20)) in (400, 414, 0)


def test_connections_that_say_nothing_keep_no_thread(start: Callable[..., Service]) -> None:
    """As those of a load balancer that looks whether the port is open."""
    service = start(webhook={"secret": SECRET}, server={"workers": 1, "threads": 2})
    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
        path = f"/webhook/{SECRET}?event=msg.offline"
        status, _ = service.request("POST", path, json.dumps(offline(["u"])).encode())
    assert status == 200


@pytest.mark.soak
def test_clients_that_fall_silent_are_let_go(start: Callable[..., Service], soak: bool) -> None:
    """As where a machine loses its power: nothing ever tells that it is gone."""
    if not soak:
        pytest.skip("has a long form only")
    service = start(webhook={"secret": SECRET}, server={"workers": 1, "threads": 2})
    with ExitStack() as stack:
        for number in range(4):
            stack.enter_context(_slow(service.port, number))
        path = f"/webhook/{SECRET}?event=msg.offline"
        body = json.dumps(offline(["u"])).encode()
        until(lambda: _answered(service, path, body), "both threads are free again", 60)
    assert "Traceback" not in service.output.read_text()


def _answered(service: Service, path: str, body: bytes) -> bool:
    with suppress(OSError):
        return service.request("POST", path, body)[0] == 200
    return False


def test_chunks_that_are_none(guarded: Service) -> None:
    path = f"/webhook/{SECRET}?event=msg.offline"
    with unharmed(guarded):
        assert raw(guarded, post(path, "Transfer-Encoding: chunked"), [b"ZZ\r\n"]) == 400


def test_no_header_changes_the_path(guarded: Service) -> None:
    for path, header, status in (
        ("/webhook/admin/v1/stats", "SCRIPT_NAME: /webhook", 405),
        ("/admin/v1/stats", "PATH_INFO: /healthz", 200),
        ("/admin/v1/stats", "X-Forwarded-Prefix: /admin", 200),
    ):
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-token\r\n{header}\r\n\r\n"
        assert raw(guarded, head) == status, header


@pytest.mark.soak
def test_wrong_secrets_at_speed(guarded: Service, soak: bool) -> None:
    def guess(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=30)
        for number in range(first, first + (5_000 if soak else 250)):
            connection.request("POST", f"/webhook/{number}?event=msg.offline", b"{}")
            answer = connection.getresponse()
            answer.read()
            statuses.add(answer.status)
        connection.close()

    statuses: set[int] = set()
    with unharmed(guarded), good_traffic(guarded):
        threads = [threading.Thread(target=guess, args=(n * 10_000,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == {401}


def _bodies() -> st.SearchStrategy[bytes]:
    """Bytes of any kind, JSON of any kind, and bodies as the server builds them with something changed."""
    json_values = st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
        max_leaves=30,
    )
    names = st.sampled_from(sorted(offline(["u"], compress="gzip", compress_to_uids="")))
    like_one = st.dictionaries(names, json_values).map(lambda changes: {**offline(["u"]), **changes})
    texts = st.one_of(json_values, like_one, st.lists(like_one, max_size=3)).map(
        lambda value: json.dumps(value).encode()
    )
    cut = st.tuples(texts, st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]] + pair[0][pair[1] + 1 :])
    packed = st.binary(max_size=200).map(gzip.compress) | st.binary(max_size=200)
    lists = packed.map(
        lambda data: json.dumps(offline([], compress="gzip", compress_to_uids=base64.b64encode(data).decode())).encode()
    )
    return st.binary(max_size=300) | texts | cut | lists


@pytest.mark.soak
def test_bodies_of_any_bytes(guarded: Service, soak: bool) -> None:
    deadline = time.monotonic() + (60 if soak else 1)
    posted = 0

    @settings(max_examples=50, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.sampled_from(EVENTS), _bodies())
    def fuzz(event: str, body: bytes) -> None:
        nonlocal posted
        connection.request("POST", f"/webhook/{SECRET}?event={event}", body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 400, 413, 503), (event, body)
        posted += 1

    with (
        closing(http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=30)) as connection,
        unharmed(guarded),
    ):
        with good_traffic(guarded):
            while posted == 0 or time.monotonic() < deadline:
                fuzz()
        until(guarded.is_idle, "all of it is planned", 60)
    assert posted >= 50


def _slow(port: int, number: int) -> socket.socket:
    """A connection from an address of its own that has begun a request and goes no further: header or body."""
    connection = socket.socket()
    connection.bind((f"127.0.1.{number % 200 + 1}", 0))
    connection.settimeout(30)
    connection.connect(("127.0.0.1", port))
    head = f"POST /webhook/{SECRET}?event=msg.offline HTTP/1.1\r\nHost: x\r\n"
    connection.sendall((head if number % 2 else head + "Content-Length: 1000\r\n\r\n{").encode())
    return connection


@pytest.mark.soak
def test_thousands_of_slow_connections_before_nginx(start: Callable[..., Service], tmp_path: Path, soak: bool) -> None:
    if not soak:
        return
    service = start(webhook={"secret": SECRET}, server={"trusted_proxies": ["loopback"]})
    with nginx(service.port, tmp_path) as port, ExitStack() as stack, unharmed(service), good_traffic(service, port):
        slow = [stack.enter_context(_slow(port, number)) for number in range(4_000)]
        for _ in range(6):  # seconds in which some go on, a byte at a time
            for connection in slow[:1_000]:
                with suppress(OSError):
                    connection.send(b"x")
            threading.Event().wait(1)
        assert authorised(service, "msg.offline", json.dumps(offline(["u"])).encode()) == 200
        until(lambda: _closed(slow[-1]) and _closed(slow[-2]), "nginx lets go of those who are too slow", 30)


def _closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1 << 10, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
