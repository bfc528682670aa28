"""Secrets and contents are shown nowhere: not in logs, answers, figures or traces, whatever goes well or wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from app.checking import report
from app.config import load
from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token, free_port, offline, until
from tests.providers.material import certificate, rsa_key

WEBHOOK, ADMIN, API, PROXY, PASSWORD, HOOK, TARGET = (
    f"hunter2-{name}" for name in ("webhook", "admin", "api", "proxy", "p12", "hook", "target")
)
TEXT, NAME = "the text of a message that nobody else may read", "a title that nobody else may read"
TOKENS = {"one": apns_token(0x5EC_1), "two": apns_token(0x5EC_2), "dead": apns_token(0x5EC_3)}
FCM_TOKEN = "fcm-token-that-is-nobody-elses-business"


def sections(folder: Path, standin: StandinProcess) -> dict[str, Any]:
    """Something secret under every key that takes it, in place or in a file."""
    (folder / "secret").write_text(WEBHOOK)
    own = certificate(rsa_key(), days=30)
    locked = serialize_key_and_certificates(b"push", rsa_key(), own, None, BestAvailableEncryption(PASSWORD.encode()))
    (folder / "push.p12").write_bytes(locked)
    proxy = f"http://user:{PROXY}@127.0.0.1:{free_port()}"
    return {
        "webhook": {"secret_file": str(folder / "secret")},
        "admin": {"token": ADMIN},
        "wukongim": {"api_url": f"http://127.0.0.1:{free_port()}", "api_token": API},
        "relay": [{"url": f"http://127.0.0.1:{free_port()}/{HOOK}", "secret": TARGET}],
        "presence": {"hold": "100ms"},
        "retry": {"max_age": "2s"},
        "providers": {
            "certificate": {
                "type": "apns",
                "endpoint": standin.apns,
                "ca_file": standin.ca_file,
                "p12_file": str(folder / "push.p12"),
                "password": PASSWORD,
                "topic": standin.topic,
                "proxy": proxy,
            },
            "proxied": {
                "type": "fcm",
                "endpoint": standin.fcm,
                "ca_file": standin.ca_file,
                "service_account_file": standin.service_account_file,
                "proxy": proxy,
            },
        },
    }


class Heard:
    """Everything that the service says to whoever calls it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.said = b""
        self.bearer = {"Authorization": f"Bearer {ADMIN}"}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        status, answer = self.service.request(method, path, raw, headers)
        self.said += answer
        return status

    def admin(self, method: str, path: str, body: Any = None) -> int:
        return self.call(method, f"/admin/v1{path}", body, **self.bearer)

    def post(self, body: Any, event: str = "msg.offline", secret: str = WEBHOOK) -> int:
        return self.call("POST", f"/webhook/{secret}?event={event}", body)


def drive(heard: Heard, standin: StandinProcess) -> None:
    """Good, bad and failing calls of every kind."""
    for uid, token in TOKENS.items():
        assert heard.admin("PUT", f"/users/{uid}/devices/d", {"provider": "ios", "token": token}) == 201
    for provider in ("certificate", "proxied", "android"):
        token = FCM_TOKEN if provider != "certificate" else apns_token(0x5EC_4)
        device = {"provider": provider, "token": f"{token}{provider if provider != 'certificate' else ''}"}
        assert heard.admin("PUT", f"/users/two/devices/{provider}", device) == 201
    assert heard.admin("PUT", "/users/x/devices/d", {"provider": "ios", "token": f"x{TOKENS['one']}"}) == 400
    assert heard.call("GET", "/admin/v1/stats", Authorization=f"Bearer {ADMIN}x") == 401
    assert heard.admin("POST", "/users/one/test", {"title": NAME, "body": TEXT}) == 200
    standin.script(TOKENS["dead"], [{"status": 410, "body": {"reason": "Unregistered"}}])
    standin.script(TOKENS["one"], [{"status": 403, "body": {"reason": "InvalidProviderToken"}}, {"status": 500}])
    heard.service.request("PUT", "/admin/v1/users/sender/settings", json.dumps({"name": NAME}).encode(), heard.bearer)
    message = {**offline(list(TOKENS), text=TEXT)}
    basic = base64.b64encode(f":{WEBHOOK}".encode()).decode()
    assert heard.post(message) == 200
    assert heard.call("POST", f"/webhook?token={WEBHOOK}&event=msg.offline", message) == 200
    assert heard.call("POST", "/webhook?event=msg.offline", message, Authorization=f"Basic {basic}") == 200
    assert heard.post(message, secret=f"{WEBHOOK}x") == 401
    assert heard.call("POST", f"/webhook?event=msg.offline&token={ADMIN}", message) == 401
    assert heard.post(json.dumps(message).encode()[:-9]) == 400
    assert heard.post({**message, "payload": TEXT}) == 400
    assert heard.post([f"{TEXT}", "one-0-1-1-1-1"], "user.onlinestatus") == 200
    assert heard.post(offline(["one"], text=TEXT, sender="sender")) == 200
    assert heard.call("POST", f"/nothing/{WEBHOOK}?token={WEBHOOK}", message) == 404
    assert heard.call("PUT", f"/webhook/{WEBHOOK}", message) == 405


def look(heard: Heard) -> None:
    """Every page that shows something."""
    for path in ("/healthz", "/readyz", "/metrics"):
        heard.call("GET", path)
    for path in ("/trace?limit=1000", "/stats", "/dead-letters", "/openapi.json", "/users/two/devices"):
        assert heard.admin("GET", path) == 200


def said_by_check(config: Path) -> str:
    """What `pushbridge check` says of this configuration, and of ones that are broken in some way."""
    whole = config.read_text()
    said: list[str] = []
    for text in (
        whole,
        whole.replace("type: apns", "type: apsn"),
        f"{whole}\nadmin: {ADMIN}",
        whole.replace("p12", "p13"),
        whole.replace(PASSWORD, f"{PASSWORD}x"),
        whole.replace("certificate:", f"certificate: {PASSWORD}\n"),
    ):
        config.write_text(text)
        report(config, said.append)
    config.write_text(whole)
    return "\n".join(said)


def secrets(standin: StandinProcess) -> list[str]:
    """What must not be seen, in every form that it has on its way."""
    key = Path(standin.key_file).read_text().splitlines()[1]
    account = json.loads(Path(standin.service_account_file).read_text())["private_key"].splitlines()[1]
    headers = [dict(request["headers"]).get("authorization", "") for request in standin.requests()]
    sent = {header.rpartition(" ")[2] for header in headers if header}
    assert len(sent) >= 2  # APNs' and FCM's
    plain = [
        WEBHOOK,
        ADMIN,
        API,
        PROXY,
        PASSWORD,
        HOOK,
        TARGET,
        TEXT,
        NAME,
        FCM_TOKEN,
        *TOKENS.values(),
        key,
        account,
        *sent,
    ]
    coded = [
        base64.b64encode(f"{user}:{secret}".encode()).decode() for user, secret in (("", WEBHOOK), ("user", PROXY))
    ]
    return [*plain, *coded, *(quote(text) for text in (TEXT, NAME)), base64.b64encode(TEXT.encode()).decode()[:-4]]


def test_secrets_and_contents_are_shown_nowhere(
    start: Callable[..., Service], standin: StandinProcess, tmp_path: Path
) -> None:
    service = start(**sections(tmp_path, standin))
    heard = Heard(service)
    drive(heard, standin)
    until(lambda: heard.admin("GET", "/trace") == 200 and b"Unregistered" in heard.said, "the dead token is told")
    look(heard)
    assert service.stop() == 0
    texts = {
        "log": service.output.read_bytes(),
        "answers": heard.said,
        "check": said_by_check(service.config).encode(),
        "repr": repr(load(service.config)).encode() + repr(load(service.config).webhook).encode(),
    }
    assert all(texts.values())
    found = [(where, secret) for where, text in texts.items() for secret in secrets(standin) if secret.encode() in text]
    assert found == []
