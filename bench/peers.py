"""The vendors' own Python clients on the same server: what a bridge built on them could send at best."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import firebase_admin
import uvloop
from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol
from firebase_admin import credentials, messaging
from google.oauth2.credentials import Credentials
from msgspec import Struct

from app.demo.certs import write_apns_key
from bench.bridge import TEXT
from bench.nginx import Nginx

APNS_AT_ONCE = 500
FCM_BATCH = 500  # the most that send_each_async takes


class Result(Struct, frozen=True, kw_only=True):
    """cpu: microseconds of this client a push."""

    pushes: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.pushes / self.seconds


def aioapns(folder: Path, nginx: Nginx, pushes: int) -> Result:
    logging.getLogger("aioapns").setLevel(logging.ERROR)
    folder.mkdir()
    write_apns_key(folder / "AuthKey.p8")
    key = (folder / "AuthKey.p8").read_text()
    return uvloop.run(_aioapns(key, nginx, pushes))


async def _aioapns(key: str, nginx: Nginx, pushes: int) -> Result:
    context = ssl.create_default_context(cafile=str(nginx.ca_file))
    context.set_alpn_protocols(["h2"])
    APNsProductionClientProtocol.APNS_SERVER = "127.0.0.1"
    APNsProductionClientProtocol.APNS_PORT = nginx.port
    client: Any = APNs(
        key=key, key_id="ABC1234567", team_id="DEF1234567", topic="com.example.chat", ssl_context=context
    )
    await client.send_notification(_notification(0))
    numbers = iter(range(pushes))

    async def work() -> None:
        for number in numbers:
            answer = await client.send_notification(_notification(number))
            if not answer.is_successful:
                raise RuntimeError(f"aioapns was answered {answer.status}")

    started, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(work() for _ in range(APNS_AT_ONCE)))
    result = _result(pushes, started, cpu)
    client.pool.close()
    return result


def _notification(number: int) -> Any:
    return NotificationRequest(
        device_token=f"{number:064x}",
        message={
            "aps": {"alert": {"title": "room-1", "body": f"ann: {TEXT}"}, "sound": "default", "thread-id": "2:room-1"},
            "message_id": "2069123456789000001",
            "channel_id": "room-1",
            "channel_type": 2,
        },
        notification_id=str(uuid4()),
        collapse_key="2069123456789000001",
        push_type=PushType.ALERT,
        priority=10,
    )


def firebase(nginx: Nginx, pushes: int) -> Result:
    os.environ["SSL_CERT_FILE"] = str(nginx.ca_file)
    try:
        return uvloop.run(_firebase(nginx, pushes))
    finally:
        del os.environ["SSL_CERT_FILE"]


class _Issued(credentials.Base):  # type: ignore[misc]
    """An access token that was fetched before: fetching one is not what is measured."""

    def get_credential(self) -> Credentials:
        return Credentials(token="t")  # type: ignore[no-untyped-call]  # noqa: S106


async def _firebase(nginx: Nginx, pushes: int) -> Result:
    app = firebase_admin.initialize_app(_Issued(), {"projectId": "example-chat"}, name="bench")
    service = messaging._get_messaging_service(app)
    service._fcm_url = f"{nginx.url}/v1/projects/example-chat/messages:send"
    await _send_each([0], app)
    started, cpu = time.monotonic(), time.process_time()
    for start in range(0, pushes, FCM_BATCH):
        await _send_each(range(start, min(start + FCM_BATCH, pushes)), app)
    result = _result(pushes, started, cpu)
    await service._async_client.aclose()
    return result


async def _send_each(numbers: Any, app: Any) -> None:
    answer = await messaging.send_each_async([_message(number) for number in numbers], app=app)
    if answer.failure_count:
        raise RuntimeError(f"firebase-admin failed: {next(r.exception for r in answer.responses if r.exception)}")


def _message(number: int) -> Any:
    return messaging.Message(
        token=f"{number:064x}",
        notification=messaging.Notification(title="room-1", body=f"ann: {TEXT}"),
        data={"message_id": "2069123456789000001", "channel_id": "room-1", "channel_type": "2"},
        android=messaging.AndroidConfig(
            priority="high",
            notification=messaging.AndroidNotification(tag="2069123456789000001", sound="default"),
        ),
    )


def _result(pushes: int, started: float, cpu: float) -> Result:
    seconds = time.monotonic() - started
    return Result(pushes=pushes, seconds=seconds, cpu=1e6 * (time.process_time() - cpu) / pushes)
