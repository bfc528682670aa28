"""Firebase Cloud Messaging, HTTP v1: Android, and iOS or web apps that are registered with Firebase.

Requests and answers: Firebase, "REST Resource: projects.messages" and "FCM error codes"; the order in which an
INVALID_ARGUMENT is judged follows Firebase's "Best practices for registration token management".
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC
from functools import partial
from typing import Any

import msgspec
from firebase_admin import messaging
from firebase_admin.credentials import Certificate
from google.auth.exceptions import RefreshError
from google.auth.exceptions import TransportError as GoogleTransportError
from msgspec import Struct
from msgspec.structs import replace

from providers.kit import answers
from providers.kit.auth import FetchedToken
from providers.kit.base import (
    Credential,
    CredentialRefused,
    Delivered,
    Misconfigured,
    Notice,
    Outcome,
    Provider,
    Quiet,
    Rejected,
    Request,
    Response,
    Retry,
    Target,
    Throttled,
    TokenInvalid,
    TooLarge,
    Transport,
    Unreachable,
)
from providers.kit.http import blocking, transport
from providers.kit.text import clean, fit
from providers.kit.values import Network, Secret

TEXT_LIMIT = 3584
"""Bytes of notification and data. Firebase allows 4096 without saying what counts, so a part is left to it."""

_HOST = "https://fcm.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_LONGEST_TTL = 2_419_200
_SOONEST = 10.0
"""Seconds: Firebase wants no push sent again earlier."""
_QUOTA_PAUSE = 60.0
_RAMP = 60.0
"""Seconds: Firebase asks for at least these from nothing to the peak."""

_BY_CODE: dict[str, Outcome] = {
    # Only iOS and web targets are hit, so Android must go on: the push is given up, the provider is not.
    "THIRD_PARTY_AUTH_ERROR": Rejected("THIRD_PARTY_AUTH_ERROR: Firebase has no valid APNs or web push key"),
    "APNS_AUTH_ERROR": Rejected("APNS_AUTH_ERROR: Firebase has no valid APNs key"),
    "SENDER_ID_MISMATCH": TokenInvalid("SENDER_ID_MISMATCH", suspect=True),  # a wrong service account reads the same
    "UNREGISTERED": TokenInvalid("UNREGISTERED"),
    "QUOTA_EXCEEDED": Throttled("QUOTA_EXCEEDED", after=_QUOTA_PAUSE),
    "INTERNAL": Retry("INTERNAL", after=_SOONEST),
    "UNAVAILABLE": Retry("UNAVAILABLE", after=_SOONEST),
}
"""By the errorCode of FcmError. Without one, or with another, the HTTP status decides."""

_BY_STATUS: dict[int, Outcome] = {
    401: Misconfigured("the access token is refused", renew=True),
    403: Misconfigured("may the service account send, and is the FCM API enabled?"),
    404: Misconfigured("is project_id right?"),
    429: Throttled("HTTP 429", after=_QUOTA_PAUSE),
}

_BY_APNS: dict[str, Outcome] = {
    "Unregistered": TokenInvalid("APNs: Unregistered"),
    "ExpiredToken": TokenInvalid("APNs: ExpiredToken"),
    "BadDeviceToken": TokenInvalid("APNs: BadDeviceToken", suspect=True),
    "DeviceTokenNotForTopic": TokenInvalid("APNs: DeviceTokenNotForTopic", suspect=True),
    "PayloadTooLarge": TooLarge("APNs: PayloadTooLarge"),
    "TooManyRequests": Retry("APNs: TooManyRequests", after=_QUOTA_PAUSE, device=True),
    "TooManyProviderTokenUpdates": Retry("APNs: TooManyProviderTokenUpdates", after=_QUOTA_PAUSE, device=True),
    "IdleTimeout": Retry("APNs: IdleTimeout", device=True),
    "InternalServerError": Retry("APNs: InternalServerError", device=True),
    "ServiceUnavailable": Retry("APNs: ServiceUnavailable", device=True),
    "Shutdown": Retry("APNs: Shutdown", device=True),
}
"""Apple's answer to Firebase, by the reason of ApnsError; what is wrong there never stops Android."""


class Config(Network, frozen=True, kw_only=True):
    """A `type: fcm` block.

    service_account: the JSON key file of a Google service account.
    project_id: in place of the one in that file.
    """

    service_account: Secret = Secret(b"")
    project_id: str = ""


def build(name: str, config: Config, now: Callable[[], float] = time.time) -> Provider:
    """Raises ValueError that names the key of the block which is wrong, what was found and what is allowed."""
    account = _account(config.service_account)
    certificate = _certificate(account)
    project = config.project_id or account.get("project_id") or ""
    if not isinstance(project, str) or not project or not project.isascii() or not project.replace("-", "").isalnum():
        raise ValueError(f"project_id: found {project or 'nothing'!r}, wanted is a project id such as my-chat-1a2b3")
    made = transport(config, _HOST)
    google = certificate.get_credential().with_scopes([_SCOPE])
    credential = FetchedToken(partial(_fetch, google, blocking(made)), now)
    return Fcm(name, made, project, credential, str(certificate.service_account_email), now)


class Prepared(Quiet, frozen=True):
    """tail: the body from the comma after the token on."""

    tail: bytes


class Fcm(Provider):
    soonest = _SOONEST
    ramp = _RAMP

    def __init__(
        self,
        name: str,
        transport: Transport,
        project: str,
        credential: Credential,
        account: str,
        now: Callable[[], float],
    ) -> None:
        self.name = name
        self.transport = transport
        self.credential = credential
        self._path = f"/v1/projects/{project}/messages:send"
        self._about = f"project {project}, service account {account}"
        self._now = now

    def prepare(self, notice: Notice, budget: int | None = None) -> Prepared:
        limit = min(budget or TEXT_LIMIT, TEXT_LIMIT)
        data = _data(notice)
        title, text = clean(notice.title), clean(notice.body)
        if _size(title, text, data) > limit:
            title = fit(title, lambda part: _size(part, "", data), limit)
            text = fit(text, lambda part: _size(title, part, data), limit)
        ttl = None
        if notice.expires_at is not None:
            ttl = int(min(max(notice.expires_at - self._now(), 0), _LONGEST_TTL))
        message = msgspec.json.encode(_message(notice, title, text, data, ttl))
        return Prepared(b",%b}" % message[1:])

    def request(self, prepared: Prepared, target: Target) -> Request:
        assert self.credential is not None
        headers = {"authorization": self.credential.header, "content-type": "application/json"}
        token = msgspec.json.encode(clean(target.token))
        return Request("POST", self._path, headers, b'{"message":{"token":%b%b' % (token, prepared.tail))

    def read(self, response: Response) -> Outcome:
        if response.status == 200:
            return Delivered(answers.plain(answers.json_object(response.body).get("name")))
        error = _Error.of(response.body)
        outcome = _judge(response, error)
        asked = answers.retry_after(response)
        if isinstance(outcome, Throttled) and error.device_quota:
            outcome = Retry(outcome.reason, after=outcome.after, device=True)
        if isinstance(outcome, Throttled):
            return outcome if asked is None else Throttled(outcome.reason, after=max(asked, 1.0))
        if isinstance(outcome, Retry):
            outcome = replace(outcome, after=max(asked or outcome.after or _SOONEST, _SOONEST))
        return outcome

    def describe(self) -> str:
        assert self.transport is not None
        return f"FCM: notifications to {self.transport.endpoint}, {self._about}"


class _Error(Struct, frozen=True):
    """What Google's error JSON says, as far as it can be read."""

    status: str
    message: str
    code: str = ""
    apns_status: int = 0
    apns_reason: str = ""
    fields: tuple[str, ...] = ()
    info: str = ""
    device_quota: bool = False

    @classmethod
    def of(cls, body: bytes) -> _Error:
        error = answers.json_object(body).get("error")
        if not isinstance(error, dict):
            return cls("", answers.plain(error))
        found: dict[str, Any] = {}
        details = error.get("details")
        for detail in details if isinstance(details, list) else []:
            if isinstance(detail, dict):
                found |= _detail(detail)
        return cls(answers.plain(error.get("status")), answers.plain(error.get("message")), **found)

    def text(self, hint: str = "") -> str:
        """The vendor's own word, the more exact first."""
        parts = [part for part in (self.code or self.status, self.info, hint or self.message) if part]
        return ": ".join(parts)


def _detail(detail: dict[str, Any]) -> dict[str, Any]:
    """The fields of _Error that one entry of `details` fills; the type is matched by its end, as versions differ."""
    kind = answers.plain(detail.get("@type")).rpartition(".")[2]
    if kind in ("FcmError", "FcmErrorCode"):
        return {"code": answers.plain(detail.get("errorCode"))}
    if kind == "ApnsError":
        status = detail.get("statusCode", detail.get("status_code"))
        return {
            "apns_status": status if isinstance(status, int) else 0,
            "apns_reason": answers.plain(detail.get("reason")) or "no reason",
        }
    if kind == "BadRequest":
        return {"fields": tuple(answers.plain(found.get("field")) for found in _objects(detail, "fieldViolations"))}
    if kind == "QuotaFailure":
        words = " ".join(
            f"{answers.plain(found.get('subject'))} {answers.plain(found.get('description'))}"
            for found in _objects(detail, "violations")
        )
        return {"device_quota": "device" in words.lower()}
    if kind == "ErrorInfo":
        return {"info": answers.plain(detail.get("reason"))}
    return {}


def _objects(detail: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = detail.get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _judge(response: Response, error: _Error) -> Outcome:
    known = _BY_CODE.get(error.code)
    # Apple's limits and keys are those of iPhones, so its word goes before a code that would stop Android too.
    if error.apns_reason and not isinstance(known, TokenInvalid):
        return _from_apns(response, error)
    if known is not None:
        return known
    if response.status == 400:
        return _bad_request(error)
    outcome = _BY_STATUS.get(response.status)
    if isinstance(outcome, Misconfigured):
        return Misconfigured(error.text(outcome.reason), renew=outcome.renew)
    return outcome or answers.by_status(response, error.text())


def _from_apns(response: Response, error: _Error) -> Outcome:
    known = _BY_APNS.get(error.apns_reason)
    if known is not None:
        return known
    reason = f"APNs: {error.apns_reason}"
    status = error.apns_status or response.status
    if status >= 500:
        return Retry(reason, device=True)
    if status == 429:
        return Retry(reason, after=_QUOTA_PAUSE, device=True)
    if status == 413:
        return TooLarge(reason)
    if error.apns_status == 410:
        return TokenInvalid(reason)
    if error.code in _BY_CODE or status == 403:
        reason += "; is the APNs key in the Firebase project right?"
    return Rejected(f"{error.code}: {reason}" if error.code else reason)


def _bad_request(error: _Error) -> Outcome:
    """INVALID_ARGUMENT is said of a bad token and of a bad message alike."""
    if error.fields:
        if any(field in ("message.token", "message.fid") for field in error.fields):
            return TokenInvalid(error.text())
        return Rejected(error.text(f"{', '.join(error.fields)}: {error.message}"))
    words = error.message.lower()
    if error.code == "INVALID_ARGUMENT" and "registration token" in words and "not a valid" in words:
        return TokenInvalid(error.text())
    if "too big" in words or "too large" in words:
        return TooLarge(error.text())
    return Rejected(error.text() or "HTTP 400")


def _data(notice: Notice) -> dict[str, str]:
    """The app's keys, all values strings. Names that Firebase keeps for itself would spoil the whole message."""
    return {
        clean(key): clean(str(value))
        for key, value in notice.data.items()
        if key not in ("from", "message_type", "collapse_key") and not key.startswith(("google", "gcm"))
    }


def _size(title: str, body: str, data: dict[str, str]) -> int:
    """Bytes of notification and data as JSON: never less than their keys and values alone."""
    return len(msgspec.json.encode([{"title": title, "body": body}, data]))


def _message(notice: Notice, title: str, body: str, data: dict[str, str], ttl: int | None) -> dict[str, Any]:
    headers = {"apns-priority": "10", "apns-push-type": "alert", "apns-collapse-id": notice.message_id[:64]}
    if notice.expires_at is not None:
        headers["apns-expiration"] = str(notice.expires_at)
    aps = messaging.Aps(sound=clean(notice.sound), thread_id=clean(notice.thread), mutable_content=True)
    android = messaging.AndroidNotification(tag=notice.message_id, sound=clean(notice.sound))
    message = messaging.Message(
        fid="-",  # stands for the token: exactly one target is asked for, and a token there warns of its end
        notification=messaging.Notification(title=title, body=body),
        data=data,
        android=messaging.AndroidConfig(priority="high", ttl=ttl, notification=android),
        apns=messaging.APNSConfig(headers=headers, payload=messaging.APNSPayload(aps=aps)),
    )
    made: dict[str, Any] = json.loads(str(message))
    del made["fid"]
    return made


def _account(secret: Secret) -> dict[str, Any]:
    if not secret:
        raise ValueError("service_account_file: nothing found, wanted is the JSON key file of a service account")
    account = answers.json_object(secret.raw)
    if account.get("type") != "service_account":
        found = "google-services.json, the app's own file" if "project_info" in account else "something else"
        raise ValueError(
            f"service_account_file: found {found}, wanted is the JSON key file of a service account"
            ' (Firebase console, Project settings, Service accounts), with "type": "service_account"'
        )
    return account


def _certificate(account: dict[str, Any]) -> Certificate:
    missing = [key for key in ("client_email", "private_key", "token_uri") if not isinstance(account.get(key), str)]
    if missing:
        raise ValueError(f"service_account_file: {', '.join(missing)} missing; download the key file anew")
    try:
        return Certificate(account)
    except (ValueError, TypeError):
        # The cause may hold parts of the key, so it is not shown.
        raise ValueError("service_account_file: its private_key cannot be read; download the key file anew") from None


def _fetch(google: Any, send: Callable[..., object]) -> tuple[str, float]:
    """A new access token, and when it ends. Blocks."""
    try:
        google.refresh(send)
    except GoogleTransportError:
        raise Unreachable("the token endpoint did not answer") from None
    except RefreshError as error:
        reason = answers.plain(str(error.args[0])) if error.args else ""
        if error.retryable:
            raise Unreachable("the token endpoint is not available") from None
        raise CredentialRefused(reason or "refused by the token endpoint") from None
    token = google.token
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise Unreachable("the token endpoint answered no token")
    return f"Bearer {token}", google.expiry.replace(tzinfo=UTC).timestamp()
