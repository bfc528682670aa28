"""`pushbridge demo`: a conversation through the real service, with stand-ins for the vendors."""

from __future__ import annotations

import base64
import json
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlencode

from rich.console import Console

from app.clock import now_ms
from app.demo import script
from app.demo.cards import WIDTH, Shown, Stage
from app.demo.service import Service, ServiceFailed
from app.demo.standin import StandinProcess
from app.model import PENDING

_PATIENCE = 20.0
_LOOK_EVERY = 0.02
_LONGEST = 600.0
_HOLD = "1s"
_FIRST_MESSAGE = 2_069_123_456_789_012_345
_NAMES = {person.uid: person.name for person in script.PEOPLE}
_PHONES = {person.token: person.phone for person in script.PEOPLE}


def play(seconds_between: float) -> int:
    """Play the demo; 0 where all went as the script says, 1 otherwise. Leaves no process and no file."""
    signal.signal(signal.SIGTERM, _interrupt)
    stage = Stage(Console(width=WIDTH, highlight=False))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pushbridge-demo-") as name,
            StandinProcess(Path(name) / "standin", _LONGEST) as standin,
            Service(Path(name), _sections(standin), secrets.token_urlsafe()) as service,
        ):
            wrong = _Play(stage, standin, service, seconds_between).run()
    except (ServiceFailed, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    stage.end(wrong)
    return 1 if wrong else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _sections(standin: StandinProcess) -> dict[str, Any]:
    """What the configuration of the demo has beside the defaults."""
    return {
        # A second worker might still be starting when the first answers, and stopping gunicorn then takes seconds.
        "server": {"workers": 1},
        "presence": {"hold": _HOLD},
        "providers": {
            "ios": {
                "type": "apns",
                "endpoint": standin.apns,
                "ca_file": standin.ca_file,
                "key_file": standin.key_file,
                "key_id": standin.key_id,
                "team_id": standin.team_id,
                "topic": standin.topic,
            },
            "android": {
                "type": "fcm",
                "endpoint": standin.fcm,
                "ca_file": standin.ca_file,
                "service_account_file": standin.service_account_file,
            },
        },
    }


class _Play:
    def __init__(self, stage: Stage, standin: StandinProcess, service: Service, pause: float) -> None:
        self._stage = stage
        self._standin = standin
        self._service = service
        self._pause = pause
        self._seen = 0
        self._about: dict[str, str] = {}

    def run(self) -> list[str]:
        """What did not go as the script says."""
        self._stage.welcome(f"http://127.0.0.1:{self._service.port}/webhook")
        self._register()
        wrong = []
        for number, step in enumerate(script.STEPS, 1):
            wrong += self._step(number, step)
            time.sleep(self._pause)
        records = self._service.admin("GET", "trace", query="?limit=100")["records"]
        self._stage.trace(
            [
                {**record, "name": _NAMES[record["uid"]], "about": self._about[record["message_id"]]}
                for record in sorted(records, key=lambda record: (record["message_id"], record["at"]))
            ]
        )
        if self._service.admin("GET", "users", script.GONE, "devices")["devices"]:
            wrong.append(f"the phone of {_NAMES[script.GONE]} is still registered")
        return wrong

    def _register(self) -> None:
        for person in script.PEOPLE:
            phone = {"provider": person.provider, "token": person.token}
            self._service.admin("PUT", "users", person.uid, "devices", "phone", document=phone)
            settings = {"name": person.name, "locale": person.locale} if person.locale else {"name": person.name}
            self._service.admin("PUT", "users", person.uid, "settings", document=settings)
        name = {"name": script.GROUP_NAME}
        self._service.admin("PUT", "channels", script.GROUP_TYPE, script.GROUP, document=name)

    def _step(self, number: int, step: script.Step) -> list[str]:
        self._stage.step(number, step.title, step.note, step.said)
        if step.status:
            self._service.webhook("user.onlinestatus", [step.status])
        if not step.to:
            return []
        message_id = _FIRST_MESSAGE + number
        self._about[str(message_id)] = step.about
        self._lose_phone()
        self._service.webhook("msg.offline", _message(message_id, step))
        records = self._watch(message_id, step)
        for uid in step.to:
            if records[uid]["outcome"] in ("suppressed", "skipped"):
                self._stage.peace(_NAMES[uid], _SILENCE[records[uid]["outcome"]])
        return [
            f"{_NAMES[uid]} got {records[uid]['outcome']} ({records[uid]['reason']}), not {expected}"
            for uid, expected in step.outcomes.items()
            if records[uid]["outcome"] != expected
        ]

    def _lose_phone(self) -> None:
        """Have APNs say of the phone without the app what it says of such phones, and since when."""
        token = next(person.token for person in script.PEOPLE if person.uid == script.GONE)
        gone = {"status": 410, "body": {"reason": "Unregistered", "timestamp": now_ms()}}
        self._standin.script(token, [gone])

    def _watch(self, message_id: int, step: script.Step) -> Mapping[str, Mapping[str, Any]]:
        """Draw pushes as they arrive; the trace by recipient, once all have their outcome."""
        deadline = time.monotonic() + _PATIENCE
        query = "?" + urlencode({"message_id": message_id})
        while True:
            # The trace first: what it calls done has been received before.
            records = {r["uid"]: r for r in self._service.admin("GET", "trace", query=query)["records"]}
            self._draw()
            if records.keys() >= set(step.to) and all(r["outcome"] not in PENDING for r in records.values()):
                return records
            self._service.check()
            if time.monotonic() > deadline:
                found = {uid: record["outcome"] for uid, record in records.items()}
                raise ServiceFailed(f"{step.title}: no outcome after {_PATIENCE:.0f} s, only {found}")
            time.sleep(_LOOK_EVERY)

    def _draw(self) -> None:
        for call in self._standin.requests(since=self._seen):
            if call["answered"] is None:
                return
            self._seen = call["n"]
            if call["server"] != "token":
                self._stage.card(Shown.of(call), _PHONES[call["device"]], datetime.now().astimezone())


_SILENCE = {
    "suppressed": "online, so the phone stays silent",
    "skipped": "no phone is registered any more",
}


def _message(message_id: int, step: script.Step) -> dict[str, Any]:
    """A body of msg.offline, with the fields that WuKongIM v2 sends."""
    payload = base64.b64encode(json.dumps(step.payload).encode()).decode()
    return {
        "header": {"no_persist": 0, "red_dot": 1, "sync_once": 0},
        "setting": 0,
        "expire": 0,
        "message_id": message_id,
        "message_idstr": str(message_id),
        "client_msg_no": f"demo-{message_id}",
        "message_seq": 1,
        "from_uid": step.sender,
        "channel_id": script.GROUP if step.group else step.to[0],
        "channel_type": script.GROUP_TYPE if step.group else 1,
        "timestamp": int(time.time()),
        "payload": payload,
        "to_uids": list(step.to),
        "source_id": 1,
    }
