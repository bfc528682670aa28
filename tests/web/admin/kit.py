"""The admin API over a real SQLite store, without sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from werkzeug.test import TestResponse

from app.bounds import Bounds
from app.intake import Intake
from app.store.dialect import Database
from app.store.opening import open_database
from app.store.writer import GroupCommit
from app.web import admin, create_app
from app.web.webhook import Origin

TOKEN = "a-token-of-this-test"
PROVIDERS = {"console": "console", "ios": "apns", "android": "fcm"}
START = 1_700_000_000_000
TTL = 3_600_000


class Api:
    """Calls the API. now: its clock. pokes: how often it poked. on_poke: what a dispatcher does then.

    patience: seconds that it waits for a test push.
    """

    def __init__(self, folder: Path, providers: Mapping[str, str] = PROVIDERS, patience: float = 0) -> None:
        self.database: Database = open_database(folder, durability="normal")
        self.now = START
        self.pokes = 0
        self.on_poke: Callable[[], object] = lambda: None
        self.bounds = Bounds(self.database, folder, 1, 1_000_000)
        self.intake = Intake(GroupCommit(self.database), self.poke, bounds=self.bounds)
        api = admin.blueprint(
            self.database, TOKEN, providers, self.intake, lambda: self.now, self.poke, ttl=TTL, patience=patience
        )
        self.app = create_app(self.database, self.intake, Origin(b"", (), ()), 0, api, lambda: self.now)
        self.client = self.app.test_client()

    def poke(self) -> None:
        self.pokes += 1
        self.on_poke()

    def call(
        self, method: str, path: str, *ids: str, body: Any = None, data: bytes | None = None, **more: Any
    ) -> TestResponse:
        """`path` has `{}` for each of `ids`, which become one segment each. `body` is sent as JSON, `data` as it is."""
        url = "/admin/v1" + path.format(*(quote(each, safe="") for each in ids))
        headers = {"Authorization": f"Bearer {TOKEN}", **more.pop("headers", {})}
        sent = json.dumps(body).encode() if body is not None else data
        return self.client.open(url, method=method, data=sent, headers=headers, **more)

    def register(self, uid: str, device_id: str, token: str = "t" * 30, provider: str = "console", **more: Any) -> int:
        body = {"provider": provider, "token": token, **more}
        return self.call("PUT", "/users/{}/devices/{}", uid, device_id, body=body).status_code

    def devices(self, uid: str) -> list[dict[str, Any]]:
        return ok(self.call("GET", "/users/{}/devices", uid))["devices"]  # type: ignore[no-any-return]

    def everything(self) -> list[Any]:
        """Every row of every table, to see whether anything changed."""
        with self.database.read() as connection:
            names = [row[0] for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type='table'")]
            return [(n, connection.exec_driver_sql(f"SELECT * FROM {n}").all()) for n in sorted(names)]


def ok(response: TestResponse, status: int = 200) -> Any:
    """The document of a success."""
    assert response.status_code == status, response.text
    return response.get_json()


def refused(response: TestResponse, *words: str, status: int = 400) -> str:
    """The message of a refusal, which holds these words."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/json"
    message: str = response.get_json()["error"]["message"]
    assert all(word in message for word in words), message
    return message
