"""How FCM HTTP v1 answers, and the token endpoint that gives its clients their access tokens.

Sources: the FCM v1 discovery document (schema), Firebase's ErrorCode page (error bodies), Google's OAuth 2 flow for
service accounts.
"""

from __future__ import annotations

import secrets
import time
from typing import Any
from urllib.parse import parse_qs

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.demo.standin.values import Answer, Call, Headers

_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SCOPES = {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
_TARGETS = ("token", "fid", "topic", "condition")
_FIELDS = {*_TARGETS, "name", "data", "notification", "android", "webpush", "apns", "fcm_options", "fcmOptions"}
_LIFE = 3599
_MOST = 4096
_JSON: Headers = ((b"content-type", b"application/json; charset=UTF-8"),)


class AccessTokens:
    """The access tokens in force. Each is good for an hour, or until all are revoked."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def issue(self) -> str:
        token = "ya29." + secrets.token_urlsafe(24)
        self._until[token] = time.monotonic() + _LIFE
        return token

    def valid(self, token: str) -> bool:
        return self._until.get(token, 0.0) > time.monotonic()

    def revoke(self) -> None:
        self._until.clear()


class Fcm:
    """messages:send of one Firebase project."""

    name = "fcm"

    def __init__(self, project: str, tokens: AccessTokens) -> None:
        self._path = f"/v1/projects/{project}/messages:send"
        self._project = project
        self._tokens = tokens

    def reset(self) -> None:
        """Access tokens stay good from one test to the next, as a client may keep its own."""

    def device(self, call: Call) -> str:
        message = _message(call.body)
        return next((str(message[key]) for key in ("token", "fid") if message.get(key)), "")

    def usual_headers(self, call: Call, status: int) -> Headers:
        return _JSON

    def answer(self, call: Call) -> Answer:
        if call.path != self._path:
            return _error(404, "NOT_FOUND", "Requested entity was not found.")
        if call.method != "POST":
            return _error(405, "METHOD_NOT_ALLOWED", "The request method is not allowed.")
        scheme, _, token = dict(call.headers).get(b"authorization", b"").decode(errors="replace").partition(" ")
        if scheme != "Bearer" or not self._tokens.valid(token):
            return _error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        message = _message(call.body)
        fault = _target_fault(message) or _data_fault(message) or _size_fault(message)
        if fault:
            return _error(400, "INVALID_ARGUMENT", fault, "INVALID_ARGUMENT")
        name = f"projects/{self._project}/messages/0:{time.time_ns() // 1000}%{secrets.token_hex(8)}"
        return Answer(headers=_JSON, body=msgspec.json.encode({"name": name}))


class TokenEndpoint:
    """The OAuth 2 token endpoint. It does not look at `aud`: google-auth always writes Google's own there."""

    name = "token"

    def __init__(self, key: RSAPublicKey, email: str, tokens: AccessTokens) -> None:
        self._key = key
        self._email = email
        self._tokens = tokens

    def reset(self) -> None:
        """Nothing is kept here."""

    def device(self, call: Call) -> str:
        return ""

    def usual_headers(self, call: Call, status: int) -> Headers:
        return _JSON

    def answer(self, call: Call) -> Answer:
        if call.method != "POST" or call.path != "/token":
            return _refusal(404, "not_found", "There is only POST /token.")
        form = {name: values[0] for name, values in parse_qs(call.body.decode(errors="replace")).items()}
        if form.get("grant_type") != _GRANT:
            return _refusal(400, "unsupported_grant_type", "Invalid grant_type.")
        fault = self._fault(form.get("assertion", ""))
        if fault:
            return _refusal(400, "invalid_grant", fault)
        granted = {"access_token": self._tokens.issue(), "expires_in": _LIFE, "token_type": "Bearer"}
        return Answer(headers=_JSON, body=msgspec.json.encode(granted))

    def _fault(self, assertion: str) -> str:
        options = {"verify_aud": False, "require": ["iss", "scope", "iat", "exp"]}
        try:
            claims = jwt.decode(assertion, self._key, algorithms=["RS256"], options=options, leeway=10)  # type: ignore[arg-type]
        except jwt.InvalidTokenError as error:
            return f"Invalid JWT: {type(error).__name__}"
        if claims["iss"] != self._email:
            return "Invalid grant: account not found"
        if claims["exp"] - claims["iat"] > 3600:
            return "Invalid JWT: the life is longer than an hour"
        return "" if _SCOPES & set(str(claims["scope"]).split()) else "Invalid scope"


def _message(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    message = found.get("message") if isinstance(found, dict) else None
    return message if isinstance(message, dict) else {}


def _target_fault(message: dict[str, Any]) -> str:
    unknown = message.keys() - _FIELDS
    if unknown:
        return f"Invalid JSON payload received. Unknown name \"{min(unknown)}\" at 'message': Cannot find field."
    targets = [message[key] for key in _TARGETS if key in message]
    if len(targets) != 1 or not isinstance(targets[0], str) or not targets[0]:
        return "Exactly one of token, topic or condition is required"
    return ""


def _data_fault(message: dict[str, Any]) -> str:
    data = message.get("data", {})
    if not isinstance(data, dict):
        return "Invalid value at 'message.data'"
    for key, value in data.items():
        if not isinstance(value, str):
            return "Invalid value at 'message.data[0].value' (TYPE_STRING)"
        if key in ("from", "message_type") or key.startswith(("google.", "gcm.")):
            return f"Invalid data payload key: {key}"
    return ""


def _size_fault(message: dict[str, Any]) -> str:
    parts = (message.get("notification", {}), message.get("data", {}))
    if not isinstance(parts[0], dict):
        return "Invalid value at 'message.notification'"
    size = sum(len(key.encode()) + len(str(value).encode()) for part in parts for key, value in part.items())
    return "Message is too large. The maximum is 4K" if size > _MOST else ""


def _error(status: int, canonical: str, message: str, code: str = "") -> Answer:
    error: dict[str, Any] = {"code": status, "message": message, "status": canonical}
    if code:
        error["details"] = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}]
    return Answer(status, _JSON, msgspec.json.encode({"error": error}))


def _refusal(status: int, error: str, description: str) -> Answer:
    return Answer(status, _JSON, msgspec.json.encode({"error": error, "error_description": description}))
