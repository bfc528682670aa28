"""What we put on the wire, held against what the vendors' own clients put there for the same notification."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aioapns
import firebase_admin
import jwt
import pytest
from aioapns.connection import APNsProductionClientProtocol
from firebase_admin import credentials, messaging

from app.demo.standin import StandinProcess
from providers.kit.base import Delivered, Notice, Provider
from providers.kit.http import Client
from tests.providers.blocks import apns_provider, fcm_provider, transport_of
from tests.providers.material import DEVICE_TOKEN, TARGET, notice

LATER = int(time.time()) + 3600
NOTICES: dict[str, Notice] = {
    "usual": notice(expires_at=LATER),
    "no end": notice(expires_at=None),
    "no title": notice(title="", expires_at=LATER),
    "chinese": notice(title="安", body="你好，世界 👨‍👩‍👧", thread="1:安", expires_at=LATER),
    "escapes": notice(title='"\\', body="a\n\t\u2028</script>", expires_at=LATER),
    "no data": notice(data={}, expires_at=LATER),
    "other sound": notice(sound="bell.caf", expires_at=LATER),
    "long": notice(body="x" * 2500, expires_at=LATER),
}

OUR_APNS_HEADERS = {
    ":authority": "RFC 9113, 8.3.1: a client that builds HTTP/2 requests sends it; aioapns sends `host`",
    "accept": "the HTTP client adds it to all requests; Apple does not look at it",
    "user-agent": "names the sender, as RFC 9110 asks",
    "content-length": "RFC 9110, 8.6: known, so sent; aioapns leaves it out",
}
THEIR_APNS_HEADERS = {"host": "see :authority"}

OUR_FCM_HEADERS: dict[str, str] = {}
THEIR_FCM_HEADERS = {
    "x-goog-api-format-version": "optional; version 2 of the errors is what v1 answers anyway",
    "x-firebase-client": "names firebase-admin, which does not send here",
    "x-goog-api-client": "names firebase-admin, which does not send here",
    "accept-encoding": "answers are small, so we ask for no compression",
    "connection": "forbidden in HTTP/2 and meaningless in it",
}

Sent = tuple[str, str, dict[str, str], Any]


@pytest.fixture
def tls(standin: StandinProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDKs take their certificates from the environment."""
    monkeypatch.setenv("SSL_CERT_FILE", standin.ca_file)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", standin.ca_file)


def recorded(standin: StandinProcess, server: Any) -> Sent:
    """Method, path, headers and body of the one request that the server saw."""
    (call,) = standin.requests(server=server)
    assert call["answered"] == 200
    headers = dict(call["headers"])
    assert len(headers) == len(call["headers"])
    return call["method"], call["path"], headers, json.loads(call["body"])


def ours(standin: StandinProcess, provider: Provider, wanted: Notice) -> Sent:
    async def main() -> None:
        assert provider.credential is not None
        await provider.credential.ready()
        client = Client(transport_of(provider))
        answer = await client.send(provider.request(provider.prepare(wanted), TARGET))
        await client.close()
        assert isinstance(provider.read(answer), Delivered)

    asyncio.run(main())
    sent = recorded(standin, provider.name)
    standin.clear()
    return sent


def compare_headers(
    ours: dict[str, str], theirs: dict[str, str], only_ours: dict[str, str], only_theirs: dict[str, str]
) -> None:
    """Alike in name and value but for the listed names."""
    assert {name for name in ours if name not in theirs} <= only_ours.keys()
    assert {name for name in theirs if name not in ours} <= only_theirs.keys()
    same = ours.keys() & theirs.keys() - only_ours.keys() - only_theirs.keys()
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}


def by_aioapns(standin: StandinProcess, wanted: Notice, monkeypatch: pytest.MonkeyPatch) -> Sent:
    address = urlsplit(standin.apns)
    monkeypatch.setattr(APNsProductionClientProtocol, "APNS_SERVER", address.hostname)
    monkeypatch.setattr(APNsProductionClientProtocol, "APNS_PORT", address.port)
    alert = {"title": wanted.title, "body": wanted.body} if wanted.title else {"body": wanted.body}
    aps = {"alert": alert, "sound": wanted.sound, "thread-id": wanted.thread, "mutable-content": 1}
    request = aioapns.NotificationRequest(
        device_token=DEVICE_TOKEN,
        message={"aps": aps, **wanted.data},
        notification_id=TARGET.push_id,
        time_to_live=None if wanted.expires_at is None else 3600,
        priority=10,
        collapse_key=wanted.message_id,
        push_type=aioapns.PushType.ALERT,
    )

    key = Path(standin.key_file).read_text()

    async def main() -> None:
        client = aioapns.APNs(
            key=key,
            key_id=standin.key_id,
            team_id=standin.team_id,
            topic=standin.topic,
            ssl_context=ssl.create_default_context(cafile=standin.ca_file),
        )
        assert (await client.send_notification(request)).is_successful
        for connection in list(client.pool.connections):
            gone = asyncio.Event()
            connection.on_connection_lost = lambda _, gone=gone: gone.set()
            connection.transport.abort()
            await asyncio.wait_for(gone.wait(), 5)

    asyncio.run(main())
    return recorded(standin, "apns")


@pytest.mark.parametrize("name", NOTICES)
def test_apns_as_aioapns_sends_it(standin: StandinProcess, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    provider = apns_provider(standin)
    provider.name = "apns"
    method, path, headers, body = ours(standin, provider, NOTICES[name])
    their_method, their_path, their_headers, their_body = by_aioapns(standin, NOTICES[name], monkeypatch)
    assert (method, path, body) == (their_method, their_path, their_body)
    same_token(headers.pop("authorization"), their_headers.pop("authorization"))
    if "apns-expiration" in headers:
        # aioapns counts from the moment of sending, a few seconds after LATER was set.
        assert 0 <= int(their_headers["apns-expiration"]) - int(headers.pop("apns-expiration")) < 600
        del their_headers["apns-expiration"]
    assert "apns-expiration" not in their_headers
    compare_headers(headers, their_headers, OUR_APNS_HEADERS, THEIR_APNS_HEADERS)
    assert headers.keys() - their_headers.keys() == OUR_APNS_HEADERS.keys()


def same_token(our_header: str, their_header: str) -> None:
    """Signatures are random and the minting times differ; all else is alike."""
    (scheme, _, token), (their_scheme, _, their_token) = our_header.partition(" "), their_header.partition(" ")
    assert scheme == their_scheme
    assert jwt.get_unverified_header(token) == jwt.get_unverified_header(their_token)
    unchecked = {"verify_signature": False}
    claims, their_claims = jwt.decode(token, options=unchecked), jwt.decode(their_token, options=unchecked)
    assert abs(claims.pop("iat") - their_claims.pop("iat")) < 600
    assert claims == their_claims


def fcm_message(wanted: Notice) -> messaging.Message:
    headers = {"apns-priority": "10", "apns-push-type": "alert", "apns-collapse-id": wanted.message_id}
    if wanted.expires_at is not None:
        headers["apns-expiration"] = str(wanted.expires_at)
    aps = messaging.Aps(sound=wanted.sound, thread_id=wanted.thread, mutable_content=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # registration tokens are what phones send today
        return messaging.Message(
            token=DEVICE_TOKEN,
            notification=messaging.Notification(title=wanted.title, body=wanted.body),
            data={key: str(value) for key, value in wanted.data.items()},
            android=messaging.AndroidConfig(
                priority="high",
                ttl=None if wanted.expires_at is None else 3600,
                notification=messaging.AndroidNotification(tag=wanted.message_id, sound=wanted.sound),
            ),
            apns=messaging.APNSConfig(headers=headers, payload=messaging.APNSPayload(aps=aps)),
        )


async def _asynchronously(message: messaging.Message, app: firebase_admin.App) -> None:
    result = await messaging.send_each_async([message], app=app)
    assert result.success_count == 1
    # firebase-admin itself would close its connections from another event loop, which cannot work.
    await messaging._get_messaging_service(app)._async_client.aclose()


async def _blocking(message: messaging.Message, app: firebase_admin.App) -> None:
    await asyncio.to_thread(messaging.send, message, app=app)


@pytest.mark.usefixtures("tls")
@pytest.mark.parametrize("send", [_asynchronously, _blocking])
@pytest.mark.parametrize("name", NOTICES)
def test_fcm_as_firebase_admin_sends_it(
    standin: StandinProcess,
    monkeypatch: pytest.MonkeyPatch,
    send: Callable[[messaging.Message, firebase_admin.App], Awaitable[None]],
    name: str,
) -> None:
    provider = fcm_provider(standin)
    provider.name = "fcm"
    method, path, headers, body = ours(standin, provider, NOTICES[name])
    url = f"{standin.fcm}/v1/projects/{{0}}/messages:send"
    monkeypatch.setattr(messaging._MessagingService, "FCM_URL", url)
    app = firebase_admin.initialize_app(credentials.Certificate(standin.service_account_file), name="parity")
    try:
        asyncio.run(send(fcm_message(NOTICES[name]), app))
    finally:
        firebase_admin.delete_app(app)
    their_method, their_path, their_headers, their_body = recorded(standin, "fcm")
    assert (method, path) == (their_method, their_path)
    ttl = body["message"]["android"].pop("ttl", None)
    their_ttl = their_body["message"]["android"].pop("ttl", None)
    assert (ttl is None) == (their_ttl is None)
    if ttl is not None:
        # Ours is what is left until LATER, theirs is a full hour.
        assert 3000 < int(ttl.removesuffix("s")) <= int(their_ttl.removesuffix("s"))
    assert body == their_body
    # Each has an access token of its own, and a connection of its own kind.
    for found in (headers, their_headers):
        assert found.pop("authorization").startswith("Bearer ya29.")
        for own in (":authority", ":scheme", ":method", ":path", "host", "user-agent", "content-length"):
            found.pop(own, None)
    compare_headers(headers, their_headers, OUR_FCM_HEADERS, THEIR_FCM_HEADERS)
