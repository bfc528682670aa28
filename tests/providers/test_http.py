"""The HTTP client against a server that misbehaves in every way that APNs and FCM have been seen to."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import pytest
import uvloop

from app.demo.standin import StandinProcess
from providers.kit.base import Delivered, Misconfigured, Provider, Request, Response, Target, Transport, Unreachable
from providers.kit.http import USER_AGENT, Client, blocking
from tests.providers.blocks import apns_provider, fcm_provider, secret, transport_of
from tests.providers.material import notice
from tests.providers.proxy import Listener, Proxy

Result = Response | Unreachable
PLAIN = Request("POST", "/plain", {}, b"{}")


class Sender:
    """Sends notices of one provider to numbered devices and keeps what came of each."""

    def __init__(self, provider: Provider, **changes: Any) -> None:
        self.provider = provider
        self.client = Client(msgspec.structs.replace(transport_of(provider), **changes))
        self._prepared = provider.prepare(notice(expires_at=None))

    async def send(self, number: int) -> Result:
        target = Target(str(number), device(number), f"00000000-0000-5000-8000-{number:012x}")
        try:
            return await self.client.send(self.provider.request(self._prepared, target))
        except Unreachable as error:
            return error

    def start(self, numbers: Iterable[int]) -> list[asyncio.Task[Result]]:
        return [asyncio.create_task(self.send(number)) for number in numbers]

    async def all(self, numbers: Iterable[int]) -> list[Result]:
        return await asyncio.gather(*self.start(numbers))


def device(number: int) -> str:
    return f"{number:064x}"


def run(provider: Provider, test: Callable[[Sender], Awaitable[None]], **changes: Any) -> None:
    """Run a test with a client for the provider, which is closed at the end."""

    async def main() -> None:
        sender = Sender(provider, **changes)
        if provider.credential is not None:
            await provider.credential.ready()
        try:
            await test(sender)
        finally:
            await sender.client.close()

    uvloop.run(main())


def statuses(results: Iterable[Result]) -> Counter[object]:
    return Counter(result.status if isinstance(result, Response) else "unreachable" for result in results)


async def arrived(standin: StandinProcess, count: int, **which: Any) -> list[dict[str, Any]]:
    return await asyncio.to_thread(lambda: standin.wait(count, **which))


def test_a_burst_on_a_fresh_client_opens_one_connection(standin: StandinProcess) -> None:
    """APNs allows one stream until the first good token; a client that does not wait opens one connection each."""

    async def test(sender: Sender) -> None:
        assert statuses(await sender.all(range(300))) == {200: 300}
        counts = standin.counts()
        assert (counts["connections"]["apns"], counts["refused"]["apns"]) == (1, 0)

    run(apns_provider(standin), test, streams=1000)


def test_a_first_request_that_is_never_answered_keeps_no_other_waiting(standin: StandinProcess) -> None:
    """APNs allows one stream until the first good token, so a hang there would hold up the whole connection."""

    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"action": "hang"}])
        hanging = sender.start([1])
        await arrived(standin, 1, token=device(1))
        assert statuses(await sender.all(range(2, 302))) == {200: 300}
        assert not hanging[0].done()
        assert standin.counts()["connections"]["apns"] == 2
        assert statuses(await asyncio.gather(*hanging)) == {"unreachable": 1}

    run(apns_provider(standin), test, streams=1000, timeout=3.0)


def test_the_next_connection_opens_when_the_first_is_full(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        assert sender.client.capacity == 20
        await sender.all(range(10))
        assert standin.counts()["connections"]["fcm"] == 1
        await asyncio.to_thread(standin.hold, "fcm")
        waiting = sender.start(range(30))
        await arrived(standin, 40, server="fcm")
        assert not any(task.done() for task in waiting)
        assert standin.counts()["connections"]["fcm"] == 2
        await asyncio.to_thread(standin.release, "fcm")
        assert statuses(await asyncio.gather(*waiting)) == {200: 30}

    run(fcm_provider(standin), test, streams=10, max_connections=2)


def test_a_goaway_that_covers_all_loses_and_doubles_nothing(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        assert statuses(await sender.all([98])) == {200: 1}
        await asyncio.to_thread(standin.hold, "fcm")
        waiting = sender.start(range(50))
        await arrived(standin, 51, server="fcm")
        await asyncio.to_thread(standin.goaway, "fcm", "all")
        assert statuses(await asyncio.gather(*waiting)) == {200: 50}
        await asyncio.to_thread(standin.release, "fcm")
        assert statuses(await sender.all([99])) == {200: 1}
        calls = Counter(call["device"] for call in standin.requests(server="fcm"))
        assert set(calls.values()) == {1}
        assert standin.counts()["connections"]["fcm"] == 2

    run(fcm_provider(standin), test)


@pytest.mark.parametrize("last", ["some", "none"])
def test_what_a_goaway_does_not_cover_is_sent_again(standin: StandinProcess, last: Any) -> None:
    """RFC 9113, 6.8: streams above the last one that it names were not processed."""

    async def test(sender: Sender) -> None:
        assert statuses(await sender.all([98])) == {200: 1}
        await asyncio.to_thread(standin.hold, "fcm")
        waiting = sender.start(range(40))
        await arrived(standin, 41, server="fcm")
        await asyncio.to_thread(standin.goaway, "fcm", last)
        await asyncio.to_thread(standin.release, "fcm")
        assert statuses(await asyncio.gather(*waiting)) == {200: 40}
        answered = Counter(call["device"] for call in standin.requests(server="fcm") if call["answered"] == 200)
        assert answered == {device(number): 1 for number in [*range(40), 98]}

    run(fcm_provider(standin), test)


def test_a_refused_stream_is_sent_again_by_itself(standin: StandinProcess) -> None:
    """RFC 9113, 8.7: REFUSED_STREAM says that nothing was processed."""

    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"action": "refuse"}])
        assert statuses(await sender.all([1, 2])) == {200: 2}
        assert len(standin.requests(token=device(1))) == 2

    run(fcm_provider(standin), test)


def test_any_other_reset_is_in_doubt_and_not_sent_again(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"action": "reset", "code": 2}])
        results = await sender.all([1, 2])
        assert isinstance(results[0], Unreachable)
        assert statuses(results) == {"unreachable": 1, 200: 1}
        assert len(standin.requests(token=device(1))) == 1
        assert standin.counts()["connections"]["fcm"] == 1

    run(fcm_provider(standin), test)


def test_a_broken_connection_ends_all_at_once_and_the_next_opens_a_new_one(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        assert statuses(await sender.all([1000])) == {200: 1}
        standin.script_all("apns", [{"action": "hang"}] * 299 + [{"action": "drop"}])
        waiting = sender.start(range(299))
        await arrived(standin, 300, server="apns")
        assert statuses(await asyncio.gather(sender.send(299), *waiting)) == {"unreachable": 300}
        assert len(standin.requests(server="apns")) == 301
        assert statuses(await sender.all([1001])) == {200: 1}
        assert standin.counts()["connections"]["apns"] == 2

    run(apns_provider(standin), test, streams=1000, timeout=60.0)


def test_a_hang_costs_its_own_time_only(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        assert statuses(await sender.all([98])) == {200: 1}
        standin.script(device(1), [{"action": "hang"}])
        hanging = sender.start([1])
        await arrived(standin, 1, token=device(1))
        assert statuses(await sender.all(range(2, 52))) == {200: 50}
        assert not hanging[0].done()
        result = await hanging[0]
        assert isinstance(result, Unreachable)
        assert str(result) == "timed out"
        assert statuses(await sender.all([60])) == {200: 1}
        assert standin.counts()["connections"]["fcm"] == 1

    run(fcm_provider(standin), test, timeout=1.0)


def test_a_cancelled_send_frees_its_place(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"action": "hang"}])
        task = sender.start([1])[0]
        await arrived(standin, 1, token=device(1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert statuses(await sender.all([2])) == {200: 1}
        assert standin.counts()["connections"]["fcm"] == 1

    run(fcm_provider(standin), test, streams=1)


def test_a_body_that_breaks_off_leaves_the_status(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"action": "half", "status": 200, "body": {"name": "n" * 1000}}])
        result = await sender.send(1)
        assert isinstance(result, Response)
        assert result.status == 200
        assert isinstance(sender.provider.read(result), Delivered)

    run(fcm_provider(standin), test)


def test_errors_without_a_body_and_thousands_with_one(standin: StandinProcess) -> None:
    """More error bodies than a connection's first flow-control window holds."""

    async def test(sender: Sender) -> None:
        standin.script_all("fcm", [{"status": 503, "headers": {"content-type": None}}])
        result = await sender.send(0)
        assert isinstance(result, Response)
        assert (result.status, result.body) == (503, b"")
        standin.script_all("fcm", [{"status": 400, "body": "x" * 300, "forever": True}])
        for _ in range(6):
            assert statuses(await sender.all(range(100))) == {400: 100}
        assert standin.counts()["connections"]["fcm"] == 1

    run(fcm_provider(standin), test)


def test_a_huge_body_is_cut_off_and_the_connection_goes_on(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"status": 400, "body": "x" * 1_000_000}])
        result = await sender.send(1)
        assert isinstance(result, Response)
        assert (result.status, len(result.body)) == (400, 64 * 1024)
        assert statuses(await sender.all(range(2, 12))) == {200: 10}
        assert standin.counts()["connections"]["fcm"] == 1

    run(fcm_provider(standin), test)


def test_a_body_is_read_in_full_up_to_the_limit_of_the_transport(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"status": 400, "body": "x" * 1_000_000}])
        result = await sender.send(1)
        assert isinstance(result, Response)
        assert len(result.body) == 1_000_000

    run(fcm_provider(standin), test, body_limit=1_000_000)


def test_a_redirect_is_not_followed(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"status": 307, "headers": {"location": standin.apns}}])
        result = await sender.send(1)
        assert isinstance(result, Response)
        assert isinstance(sender.provider.read(result), Misconfigured)
        assert len(standin.requests()) == 2  # the other one went to the token endpoint

    run(fcm_provider(standin), test)


def test_header_values_that_are_no_text_are_left_out(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"status": 503, "headers": {"x-odd": "caf\u00e9", "retry-after": "9"}}])
        result = await sender.send(1)
        assert isinstance(result, Response)
        assert result.headers["retry-after"] == "9"

    run(fcm_provider(standin), test)


def test_a_changing_stream_limit_is_followed(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        await sender.send(0)
        await asyncio.to_thread(lambda: standin.settings("apns", max_streams=1))
        first = sender.start(range(1, 200))
        await arrived(standin, 20, server="apns")
        await asyncio.to_thread(lambda: standin.settings("apns", max_streams=1000))
        assert statuses(await asyncio.gather(*first)) == {200: 199}
        assert standin.counts()["connections"]["apns"] == 1

    run(apns_provider(standin), test, streams=1000)


def test_reconnect_sends_over_new_connections_and_lets_the_old_finish(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"action": "default", "delay": 0.5}])
        slow = sender.start([1])
        await arrived(standin, 1, token=device(1))
        await sender.client.reconnect()
        assert statuses(await sender.all([2])) == {200: 1}
        assert standin.counts()["connections"]["fcm"] == 2
        assert not slow[0].done()
        assert statuses(await asyncio.gather(*slow)) == {200: 1}

    run(fcm_provider(standin), test)


def test_close_ends_what_is_in_flight(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        standin.script(device(1), [{"action": "hang"}])
        hanging = sender.start([1])
        await arrived(standin, 1, token=device(1))
        await sender.client.close()
        assert statuses(await asyncio.gather(*hanging)) == {"unreachable": 1}
        assert str(await sender.send(2)) == "the client is closed"

    run(fcm_provider(standin), test)


def test_a_client_certificate_is_shown(standin: StandinProcess) -> None:
    nothing = {"key": secret("/dev/null"), "key_id": "", "team_id": ""}
    provider = apns_provider(standin, cert=secret(standin.client_cert_file), **nothing)

    async def test(sender: Sender) -> None:
        assert statuses(await sender.all(range(3))) == {200: 3}
        assert all(call["certified"] for call in standin.requests(server="apns"))

    run(provider, test)


@pytest.mark.parametrize("password", ["pass%2Fword%40", "wrong"])
def test_a_proxy_with_user_and_password(standin: StandinProcess, password: str) -> None:
    async def main() -> None:
        async with Proxy("user@corp", "pass/word@") as proxy:
            provider = fcm_provider(standin, proxy=f"http://user%40corp:{password}@127.0.0.1:{proxy.port}")
            assert provider.credential is not None
            if password == "wrong":
                with pytest.raises(Unreachable):
                    await provider.credential.ready()
                result = await Sender(provider).send(1)
                assert isinstance(result, Unreachable)
                assert password not in str(result)
                assert (proxy.connects, proxy.refused > 0) == ([], True)
                return
            await provider.credential.ready()
            sender = Sender(provider)
            assert statuses(await sender.all(range(20))) == {200: 20}
            hosts = {url.rpartition("//")[2].partition("/")[0] for url in (standin.fcm, standin.token_uri)}
            assert set(proxy.connects) == hosts
            assert len(proxy.connects) == 2
            await sender.client.close()

    asyncio.run(main())


def test_headers_of_our_own(standin: StandinProcess) -> None:
    async def test(sender: Sender) -> None:
        await sender.send(1)
        sent = dict(standin.requests(server="fcm")[0]["headers"])
        assert sent["user-agent"] == USER_AGENT
        assert "accept-encoding" not in sent

    run(fcm_provider(standin), test)


def test_the_environment_s_proxy_is_not_used(standin: StandinProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def test(sender: Sender) -> None:
        assert statuses(await sender.all([1])) == {200: 1}

    run(fcm_provider(standin), test)


def unreachable(transport: Transport, authorization: str = "header-marker") -> str:
    async def main() -> str:
        client = Client(transport)
        with pytest.raises(Unreachable) as caught:
            await client.send(Request("POST", "/path-marker", {"authorization": authorization}, b"body-marker"))
        await client.close()
        return str(caught.value)

    return asyncio.run(main())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_reasons_are_short_and_hold_no_secret(standin: StandinProcess) -> None:
    nobody = f"https://127.0.0.1:{free_port()}"
    reasons = {
        "refused": unreachable(Transport(endpoint=nobody)),
        "untrusted": unreachable(Transport(endpoint=standin.fcm)),
        "proxy": unreachable(Transport(endpoint=standin.fcm, proxy=nobody.replace("https://", "http://u:pw-marker@"))),
        "unknown": unreachable(Transport(endpoint="https://no-such-host.invalid")),
        "no port": unreachable(Transport(endpoint="http://marker:99999")),
        "no URL": unreachable(Transport(endpoint="marker", http1=True)),
        "no scheme of ours": unreachable(Transport(endpoint="ftp://marker", http1=True)),
        "no header": unreachable(Transport(endpoint=nobody), authorization="marker\nmarker"),
    }
    assert "onnection refused" in reasons["refused"]
    assert "certificate" in reasons["untrusted"]
    for reason in reasons.values():
        assert "marker" not in reason
        assert "://" not in reason
        assert 0 < len(reason) <= 160


@pytest.mark.parametrize("field", ["ca", "identity"])
def test_a_transport_that_cannot_work_is_refused(field: str) -> None:
    broken = b"-----BEGIN CERTIFICATE-----\nMTIz\n-----END CERTIFICATE-----\n"
    with pytest.raises(ValueError, match=r"\w"):
        Client(Transport(endpoint="https://h", **{field: broken}))  # type: ignore[arg-type]


class OldServer(Listener):
    """HTTP/1.1; answers nothing before `together` requests are there."""

    def __init__(self, together: int) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.connections = 0
        self._together = together
        self._all_in = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(PLAIN.body))
            self.lines.append(head.decode().partition("\r\n")[0])
            if len(self.lines) == self._together:
                self._all_in.set()
            await self._all_in.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def test_http_1_1_where_the_vendor_speaks_no_other() -> None:
    async def main() -> None:
        async with OldServer(together=8) as server:
            endpoint = f"http://127.0.0.1:{server.port}/base/"
            client = Client(Transport(endpoint=endpoint, http1=True, streams=8, max_connections=1, timeout=5.0))
            for _ in range(2):
                answers = await asyncio.gather(*[client.send(PLAIN) for _ in range(8)])
                assert {(found.status, found.body) for found in answers} == {(200, b"ok")}
            await client.close()
            assert set(server.lines) == {"POST /base/plain HTTP/1.1"}
            assert server.connections == 8

    asyncio.run(main())


def test_the_blocking_call_is_what_google_auth_asks_for(standin: StandinProcess) -> None:
    call = blocking(Transport(endpoint="https://unused.invalid", ca=secret(standin.ca_file).raw, timeout=5.0))
    standin.script_token_endpoint([{"status": 400, "body": {"error": "invalid_grant"}, "headers": {"x-a": "b"}}])
    answer = call(standin.token_uri, method="POST", body=b"a=b", headers={"content-type": "text/plain"}, timeout=120)
    assert (answer.status, msgspec.json.decode(answer.data), answer.headers["x-a"]) == (
        400,
        {"error": "invalid_grant"},
        "b",
    )
    sent = standin.requests(server="token")[0]
    assert (sent["method"], sent["body"], dict(sent["headers"])["content-type"]) == ("POST", "a=b", "text/plain")
    standin.script_token_endpoint([{"action": "hang"}])
    with pytest.raises(Unreachable, match="timed out"):
        call(standin.token_uri, method="POST", body=b"", timeout=0.3)
    with pytest.raises(Unreachable, match="malformed"):
        call("http://127.0.0.1:99999", method="POST", body=b"")
