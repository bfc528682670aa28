"""Requests that the stand-in takes, made without any of the project's own code."""

from __future__ import annotations

import json
import ssl
import time
from pathlib import Path
from typing import Any

import jwt

from app.demo.standin import StandinProcess

DEVICE = "a1" * 32
PUSH_ID = "6e0f6ae0-1111-4222-8333-abcdefabcdef"
PAYLOAD = b'{"aps":{"alert":"hello"}}'
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
FCM_PATH = "/v1/projects/example-chat/messages:send"


def tls(standin: StandinProcess) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=standin.ca_file)


def provider_token(standin: StandinProcess, **changes: Any) -> str:
    """A JWT as APNs wants it; `kid`, `iss` and `iat` may be changed."""
    claims = {"iss": changes.get("iss", standin.team_id), "iat": changes.get("iat", int(time.time()))}
    key = Path(standin.key_file).read_text()
    return jwt.encode(claims, key, "ES256", headers={"kid": changes.get("kid", standin.key_id)})


def apns_headers(standin: StandinProcess) -> dict[str, str]:
    return {
        "authorization": f"bearer {provider_token(standin)}",
        "apns-topic": standin.topic,
        "apns-push-type": "alert",
        "apns-id": PUSH_ID,
    }


def assertion(standin: StandinProcess, **changes: Any) -> str:
    account = json.loads(Path(standin.service_account_file).read_bytes())
    now = int(time.time())
    claims = {
        "iss": account["client_email"],
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": now,
        "exp": now + 3600,
    }
    return jwt.encode(claims | changes, account["private_key"], "RS256")
