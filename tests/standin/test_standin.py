"""The stand-in must be right itself before it can tell that the bridge is: a plain HTTP client looks at it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from app.demo.standin import StandinProcess
from tests.standin.kit import (
    DEVICE,
    FCM_PATH,
    GRANT,
    PAYLOAD,
    PUSH_ID,
    apns_headers,
    assertion,
    provider_token,
    tls,
)


@pytest.fixture
def client(standin: StandinProcess) -> Iterator[httpx.Client]:
    with httpx.Client(http2=True, verify=tls(standin), timeout=10) as made:
        yield made


@pytest.fixture
def access(standin: StandinProcess, client: httpx.Client) -> str:
    answer = client.post(standin.token_uri, data={"grant_type": GRANT, "assertion": assertion(standin)})
    return str(answer.json()["access_token"])


def push(standin: StandinProcess, client: httpx.Client, device: str = DEVICE, **more: Any) -> httpx.Response:
    body = more.pop("body", PAYLOAD)
    headers = {**apns_headers(standin), **{name.replace("_", "-"): value for name, value in more.items()}}
    kept = {name: value for name, value in headers.items() if value is not None}
    return client.post(f"{standin.apns}/3/device/{device}", headers=kept, content=body)


def message(standin: StandinProcess, client: httpx.Client, access: str, content: Any) -> httpx.Response:
    return client.post(standin.fcm + FCM_PATH, headers={"authorization": f"Bearer {access}"}, json=content)


class TestApns:
    def test_takes_a_good_push(self, standin: StandinProcess, client: httpx.Client) -> None:
        answer = push(standin, client)
        assert (answer.http_version, answer.status_code, answer.content) == ("HTTP/2", 200, b"")
        assert answer.headers["apns-id"] == PUSH_ID
        assert answer.headers["apns-unique-id"]

    def test_invents_an_id(self, standin: StandinProcess, client: httpx.Client) -> None:
        assert len(push(standin, client, apns_id=None).headers["apns-id"]) == 36

    @pytest.mark.parametrize(
        ("change", "status", "reason"),
        [
            ({"apns-id": PUSH_ID.upper()}, 400, "BadMessageId"),
            ({"apns-topic": None}, 400, "MissingTopic"),
            ({"apns-topic": "com.example.other"}, 400, "DeviceTokenNotForTopic"),
            ({"apns-push-type": "voip"}, 400, "DeviceTokenNotForTopic"),
            ({"apns-push-type": "background"}, 400, "BadPriority"),
            ({"apns-push-type": "shout"}, 400, "InvalidPushType"),
            ({"apns-priority": "7"}, 400, "BadPriority"),
            ({"apns-expiration": "soon"}, 400, "BadExpirationDate"),
            ({"apns-collapse-id": "x" * 65}, 400, "BadCollapseId"),
            ({"device": ""}, 400, "MissingDeviceToken"),
            ({"device": "xyz"}, 400, "BadDeviceToken"),
            ({"authorization": None}, 403, "MissingProviderToken"),
            ({"authorization": "bearer rubbish"}, 403, "InvalidProviderToken"),
            ({"body": b""}, 400, "PayloadEmpty"),
            ({"body": b'{"aps":"' + b"x" * 4087 + b'"}'}, 413, "PayloadTooLarge"),
        ],
    )
    def test_refuses(
        self, standin: StandinProcess, client: httpx.Client, change: dict[str, Any], status: int, reason: str
    ) -> None:
        answer = push(standin, client, **change)
        assert (answer.status_code, answer.json()) == (status, {"reason": reason})

    def test_a_payload_may_have_exactly_4096_bytes(self, standin: StandinProcess, client: httpx.Client) -> None:
        assert push(standin, client, body=b'{"aps":"' + b"x" * 4086 + b'"}').status_code == 200

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"kid": "ZZZ1234567"}, "InvalidProviderToken"),
            ({"iss": "ZZZ1234567"}, "InvalidProviderToken"),
            ({"iat": 1}, "ExpiredProviderToken"),
        ],
    )
    def test_checks_the_provider_token(
        self, standin: StandinProcess, client: httpx.Client, change: dict[str, Any], reason: str
    ) -> None:
        answer = push(standin, client, authorization=f"bearer {provider_token(standin, **change)}")
        assert (answer.status_code, answer.json()) == (403, {"reason": reason})

    def test_checks_the_signature(self, standin: StandinProcess, client: httpx.Client) -> None:
        claims = {"iss": standin.team_id, "iat": int(time.time())}
        forged = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": standin.key_id})
        assert push(standin, client, authorization=f"bearer {forged}").json() == {"reason": "InvalidProviderToken"}

    def test_other_paths_and_methods(self, standin: StandinProcess, client: httpx.Client) -> None:
        elsewhere = client.post(f"{standin.apns}/4/device/{DEVICE}", headers=apns_headers(standin), content=PAYLOAD)
        assert (elsewhere.status_code, elsewhere.json()) == (404, {"reason": "BadPath"})
        fetched = client.get(f"{standin.apns}/3/device/{DEVICE}", headers=apns_headers(standin))
        assert (fetched.status_code, fetched.json()) == (405, {"reason": "MethodNotAllowed"})

    def test_a_client_certificate_stands_for_token_and_topic(self, standin: StandinProcess) -> None:
        context = tls(standin)
        context.load_cert_chain(standin.client_cert_file)
        with httpx.Client(http2=True, verify=context) as certified:
            answer = push(standin, certified, authorization=None, apns_topic=None)
        assert answer.status_code == 200

    def test_rotate_refuses_old_tokens_and_wedges_the_connection(
        self, standin: StandinProcess, client: httpx.Client
    ) -> None:
        old = f"bearer {provider_token(standin)}"
        assert push(standin, client, authorization=old).status_code == 200
        standin.rotate()
        assert push(standin, client, authorization=old).json() == {"reason": "ExpiredProviderToken"}
        assert push(standin, client).json() == {"reason": "ExpiredProviderToken"}
        with httpx.Client(http2=True, verify=tls(standin)) as fresh:
            assert push(standin, fresh).status_code == 200

    def test_rotate_without_the_wedge(self, standin: StandinProcess, client: httpx.Client) -> None:
        old = f"bearer {provider_token(standin)}"
        assert push(standin, client, authorization=old).status_code == 200
        standin.rotate(wedge=False)
        assert push(standin, client, authorization=old).json() == {"reason": "ExpiredProviderToken"}
        assert push(standin, client).status_code == 200


class TestFcm:
    def test_takes_a_good_message(self, standin: StandinProcess, client: httpx.Client, access: str) -> None:
        answer = message(standin, client, access, {"message": {"token": "phone", "data": {"n": "1"}}})
        assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
        assert answer.json()["name"].startswith("projects/example-chat/messages/0:")

    @pytest.mark.parametrize(
        "content",
        [
            "rubbish",
            {"message": {}},
            {"message": {"token": ""}},
            {"message": {"token": "phone", "topic": "news"}},
            {"message": {"token": "phone", "badge": 1}},
            {"message": {"token": "phone", "data": []}},
            {"message": {"token": "phone", "data": {"n": 1}}},
            {"message": {"token": "phone", "data": {"google.n": "1"}}},
            {"message": {"token": "phone", "notification": "hello"}},
            {"message": {"token": "phone", "data": {"n": "x" * 2048}, "notification": {"body": "x" * 2048}}},
        ],
    )
    def test_refuses(self, standin: StandinProcess, client: httpx.Client, access: str, content: Any) -> None:
        answer = message(standin, client, access, content)
        assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
        assert answer.json()["error"]["details"][0]["errorCode"] == "INVALID_ARGUMENT"

    def test_wants_an_access_token_in_force(self, standin: StandinProcess, client: httpx.Client, access: str) -> None:
        content = {"message": {"token": "phone"}}
        assert message(standin, client, "made-up", content).status_code == 401
        assert message(standin, client, access, content).status_code == 200
        standin.revoke_tokens()
        answer = message(standin, client, access, content)
        assert (answer.status_code, answer.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
        assert "details" not in answer.json()["error"]

    def test_another_project_is_not_found(self, standin: StandinProcess, client: httpx.Client, access: str) -> None:
        url = standin.fcm + FCM_PATH.replace("example-chat", "other")
        answer = client.post(url, headers={"authorization": f"Bearer {access}"}, json={"message": {"token": "phone"}})
        assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")


class TestTokenEndpoint:
    def ask(self, standin: StandinProcess, client: httpx.Client, **form: str) -> httpx.Response:
        return client.post(standin.token_uri, data={"grant_type": GRANT, "assertion": assertion(standin), **form})

    @pytest.mark.parametrize("http2", [True, False])
    def test_grants(self, standin: StandinProcess, http2: bool) -> None:
        with httpx.Client(http2=http2, verify=tls(standin)) as client:
            answer = self.ask(standin, client)
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert answer.json()["expires_in"] == 3599
        assert answer.json()["token_type"] == "Bearer"
        assert standin.counts()["token_calls"] == 1

    @pytest.mark.parametrize("change", [{"iss": "nobody"}, {"scope": "email"}, {"exp": 1}, {"exp": 2**33}])
    def test_refuses_an_assertion(
        self, standin: StandinProcess, client: httpx.Client, change: dict[str, object]
    ) -> None:
        answer = self.ask(standin, client, assertion=assertion(standin, **change))
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")

    def test_refuses_rubbish_and_other_grants(self, standin: StandinProcess, client: httpx.Client) -> None:
        assert self.ask(standin, client, assertion="a.b.c").json()["error"] == "invalid_grant"
        assert self.ask(standin, client, grant_type="password").json()["error"] == "unsupported_grant_type"

    def test_script(self, standin: StandinProcess, client: httpx.Client) -> None:
        standin.script_token_endpoint([{"status": 503, "body": "busy"}])
        assert self.ask(standin, client).text == "busy"
        assert self.ask(standin, client).status_code == 200

    def test_keeps_a_connection_without_http2(self, standin: StandinProcess) -> None:
        with httpx.Client(verify=tls(standin)) as client:
            assert [self.ask(standin, client).status_code for _ in range(3)] == [200] * 3
        assert standin.counts()["connections"]["token"] == 1


class TestScript:
    def test_answers_are_used_up_in_order(self, standin: StandinProcess, client: httpx.Client) -> None:
        gone = {"status": 410, "body": {"reason": "Unregistered", "timestamp": 5}, "headers": {"x-more": "1"}}
        standin.script(DEVICE, [gone, {"status": 500, "headers": {"apns-id": None}}, {"action": "default"}])
        first, second, third = (push(standin, client) for _ in range(3))
        assert (first.status_code, first.json()) == (410, {"reason": "Unregistered", "timestamp": 5})
        assert (first.headers["apns-id"], first.headers["x-more"]) == (PUSH_ID, "1")
        assert (second.status_code, second.content, "apns-id" in second.headers) == (500, b"", False)
        assert third.status_code == 200
        assert push(standin, client).status_code == 200

    def test_only_that_device(self, standin: StandinProcess, client: httpx.Client) -> None:
        standin.script(DEVICE, [{"status": 503}])
        assert push(standin, client, "b2" * 32).status_code == 200
        assert push(standin, client).status_code == 503

    def test_a_device_of_fcm(self, standin: StandinProcess, client: httpx.Client, access: str) -> None:
        standin.script("phone", [{"status": 404, "body": {"error": {"code": 404}}}])
        assert message(standin, client, access, {"message": {"token": "phone"}}).json() == {"error": {"code": 404}}

    def test_for_ever_and_replaced(self, standin: StandinProcess, client: httpx.Client) -> None:
        standin.script(DEVICE, [{"status": 429}, {"status": 503, "forever": True}])
        assert [push(standin, client).status_code for _ in range(4)] == [429, 503, 503, 503]
        standin.script(DEVICE, [])
        assert push(standin, client).status_code == 200

    def test_all_goes_first(self, standin: StandinProcess, client: httpx.Client) -> None:
        standin.script(DEVICE, [{"status": 503}])
        standin.script_all("apns", [{"status": 500}])
        assert [push(standin, client).status_code for _ in range(3)] == [500, 503, 200]

    @pytest.mark.parametrize("action", ["drop", "half", "reset"])
    def test_breaks(self, standin: StandinProcess, client: httpx.Client, action: str) -> None:
        standin.script(DEVICE, [{"action": action}])
        with pytest.raises(httpx.TransportError):
            push(standin, client)
        assert push(standin, client).status_code == 200

    def test_a_long_body_waits_for_the_window(self, standin: StandinProcess, client: httpx.Client) -> None:
        standin.script(DEVICE, [{"status": 500, "body": "x" * 300_000}])
        assert len(push(standin, client).content) == 300_000

    @pytest.mark.parametrize("answers", [[{"action": "explode"}], [{"statu": 503}], [{"status": "503"}]])
    def test_a_wrong_script_is_refused(self, standin: StandinProcess, answers: list[dict[str, Any]]) -> None:
        with pytest.raises(ValueError, match="script"):
            standin.script(DEVICE, answers)

    def test_a_wrong_server_is_refused(self, standin: StandinProcess) -> None:
        with pytest.raises(ValueError, match="hold"):
            standin.hold("hms")  # type: ignore[arg-type]


class TestRecord:
    def test_shows_the_request(self, standin: StandinProcess, client: httpx.Client) -> None:
        push(standin, client, body='{"aps":{"alert":"你好"}}'.encode())
        (call,) = standin.requests()
        assert (call["n"], call["server"], call["stream"]) == (1, "apns", 1)
        assert (call["method"], call["path"], call["answered"]) == ("POST", f"/3/device/{DEVICE}", 200)
        assert json.loads(call["body"]) == {"aps": {"alert": "你好"}}
        names = [name for name, _ in call["headers"]]
        assert names[:4] == [":method", ":authority", ":scheme", ":path"]
        assert ["apns-id", PUSH_ID] in call["headers"]
        assert (call["device"], call["certified"], call["cancelled"]) == (DEVICE, False, False)

    def test_selects(self, standin: StandinProcess, client: httpx.Client, access: str) -> None:
        for device in ("a1" * 32, "b2" * 32):
            push(standin, client, device)
        message(standin, client, access, {"message": {"token": "phone"}})
        assert [call["server"] for call in standin.requests()] == ["token", "apns", "apns", "fcm"]
        assert [call["n"] for call in standin.requests(since=2)] == [3, 4]
        assert [call["n"] for call in standin.requests(server="apns")] == [2, 3]
        assert [call["n"] for call in standin.requests(token="phone")] == [4]

    def test_wait_ends_with_the_request(self, standin: StandinProcess, client: httpx.Client) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(standin.wait, 2, "apns", DEVICE)
            push(standin, client)
            assert not waiting.done()
            push(standin, client)
            assert len(waiting.result(10)) == 2

    def test_wait_says_what_came(self, standin: StandinProcess, client: httpx.Client) -> None:
        push(standin, client)
        with pytest.raises(AssertionError, match=f"waited for 2 .*\n1 apns /3/device/{DEVICE} answered 200"):
            standin.wait(2, timeout=0.05)

    def test_counts_and_clear(self, standin: StandinProcess, client: httpx.Client, access: str) -> None:
        for _ in range(3):
            push(standin, client)
        counts = standin.counts()
        assert counts["requests"] == {"apns": 3, "fcm": 0, "token": 1}
        assert counts["connections"] == {"apns": 1, "fcm": 0, "token": 1}
        standin.clear()
        assert standin.requests() == []
        assert standin.counts()["requests"]["apns"] == 0
        push(standin, client)
        assert standin.requests()[0]["n"] == 1

    def test_reset_forgets_scripts_and_connections(self, standin: StandinProcess, client: httpx.Client) -> None:
        push(standin, client)
        standin.script_all("apns", [{"status": 503, "forever": True}])
        standin.hold("apns")
        standin.reset()
        assert standin.counts()["open"]["apns"] == 0
        with httpx.Client(http2=True, verify=tls(standin)) as fresh:
            assert push(standin, fresh).status_code == 200
        assert standin.counts()["connections"]["apns"] == 1


class TestProcess:
    def start(self, directory: Path, seconds: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "app.demo.standin", "--dir", str(directory), "--seconds", seconds]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def test_ends_with_its_standard_input(self, tmp_path: Path) -> None:
        with self.start(tmp_path, "60") as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert json.loads(process.stdout.readline())["topic"] == "com.example.chat"
            process.stdin.close()
            assert process.wait(10) == 0

    def test_ends_after_its_seconds(self, tmp_path: Path) -> None:
        with self.start(tmp_path, "0.1") as process:
            assert process.wait(10) == 0

    def test_keeps_its_authority_and_secrets_to_itself(self, tmp_path: Path) -> None:
        with StandinProcess(tmp_path, seconds=60) as first:
            ca = Path(first.ca_file).read_bytes()
        with StandinProcess(tmp_path, seconds=60) as second:
            assert Path(second.ca_file).read_bytes() == ca
            modes = {Path(name).stat().st_mode & 0o777 for name in (second.key_file, second.service_account_file)}
        assert modes == {0o600}

    def test_an_ended_process_is_a_connection_error(self, tmp_path: Path) -> None:
        with StandinProcess(tmp_path, seconds=60) as ended:
            ended.counts()
        with pytest.raises(ConnectionError):
            ended.counts()
