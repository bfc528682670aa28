"""Apple Push Notification service: alerts over the HTTP/2 provider API, by key (.p8) or by client certificate.

Requests: Apple, "Sending notification requests to APNs" and "Generating a remote notification".
Answers: Apple, "Handling notification responses from APNs".
"""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from aioapns import PushType
from aioapns.connection import JWTAuthorizationHeaderProvider
from msgspec.structs import replace

from providers.kit import answers
from providers.kit.auth import SignedToken
from providers.kit.base import (
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
)
from providers.kit.http import transport
from providers.kit.identity import Identity, load_identity, load_p8, load_p12
from providers.kit.text import clean, fit
from providers.kit.values import Network, Secret

PAYLOAD_LIMIT = 4096
_HOSTS = {"production": "https://api.push.apple.com", "sandbox": "https://api.sandbox.push.apple.com"}
_STREAMS = 250
"""Requests at once on a connection; APNs was seen to allow 500 to 1500. Fewer connections cost less for each push."""
_DEVICE_PAUSE = 60.0
_TOKEN_PAUSE = 60.0
_FAULT_REST = 5.0
"""Seconds after a 5xx. Apple asks for 15 minutes and back-off, but a chat message is stale by then."""
_SHORTEST_REST = 1.0
"""Seconds. Apple documents no Retry-After; one that is honoured all the same must not mean "at once"."""

_TABLE: dict[tuple[int, str], Outcome] = {
    (400, "BadCollapseId"): Rejected("BadCollapseId"),
    (400, "BadDeviceToken"): TokenInvalid("BadDeviceToken", suspect=True),  # a wrong environment reads the same
    (400, "BadExpirationDate"): Rejected("BadExpirationDate"),
    (400, "BadMessageId"): Rejected("BadMessageId"),
    (400, "BadPriority"): Rejected("BadPriority"),
    (400, "BadTopic"): Misconfigured("BadTopic"),
    (400, "DeviceTokenNotForTopic"): TokenInvalid("DeviceTokenNotForTopic", suspect=True),  # so does a wrong topic
    (400, "DuplicateHeaders"): Rejected("DuplicateHeaders"),
    (400, "IdleTimeout"): Retry("IdleTimeout", reconnect=True),
    (400, "InvalidPushType"): Rejected("InvalidPushType"),
    (400, "MissingDeviceToken"): Rejected("MissingDeviceToken"),
    (400, "MissingTopic"): Misconfigured("MissingTopic"),
    (400, "PayloadEmpty"): Rejected("PayloadEmpty"),
    (400, "TopicDisallowed"): Misconfigured("TopicDisallowed"),
    (403, "BadCertificate"): Misconfigured("BadCertificate"),
    (403, "BadCertificateEnvironment"): Misconfigured("BadCertificateEnvironment"),
    (403, "ExpiredProviderToken"): Misconfigured("ExpiredProviderToken; is this machine's clock right?", renew=True),
    (403, "Forbidden"): Misconfigured("Forbidden"),
    (403, "InvalidProviderToken"): Misconfigured("InvalidProviderToken; do key, key_id and team_id belong together?"),
    (403, "MissingProviderToken"): Misconfigured("MissingProviderToken"),
    (403, "UnrelatedKeyIdInToken"): Misconfigured("UnrelatedKeyIdInToken", renew=True),
    # Two spellings: the first is Apple's page, the second is what the service has been seen to answer (2026-11).
    (403, "BadEnvironmentKeyIdInToken"): Misconfigured("BadEnvironmentKeyIdInToken; is the environment right?"),
    (403, "BadEnvironmentKeyInToken"): Misconfigured("BadEnvironmentKeyInToken; is the environment right?"),
    (404, "BadPath"): Rejected("BadPath"),
    (405, "MethodNotAllowed"): Rejected("MethodNotAllowed"),
    (410, "ExpiredToken"): TokenInvalid("ExpiredToken"),
    (410, "Unregistered"): TokenInvalid("Unregistered"),
    (413, "PayloadTooLarge"): TooLarge("PayloadTooLarge"),
    # The tokens of a connection are counted; one has been seen to refuse all for an hour and a half (pushy, issue 811).
    (429, "TooManyProviderTokenUpdates"): Throttled("TooManyProviderTokenUpdates", after=_TOKEN_PAUSE, reconnect=True),
    (429, "TooManyRequests"): Retry("TooManyRequests", after=_DEVICE_PAUSE, device=True),
    (500, "InternalServerError"): Retry("InternalServerError", reconnect=True),  # a connection can be stuck in it
    (503, "ServiceUnavailable"): Retry("ServiceUnavailable"),
    (503, "Shutdown"): Retry("Shutdown", reconnect=True),
}
"""Every reason that Apple lists for device pushes. What is not here is judged by its status."""


class Config(Network, frozen=True, kw_only=True):
    """A `type: apns` block: `key`, `key_id` and `team_id`, or `cert`, or `p12`.

    key: text of the .p8 file. cert: PEM of a certificate and its private key. password: opens `p12`, or `cert`'s key.
    topic: the app's bundle id; with a certificate it is read from there if not given.
    voip_topic: for calls, which are not built yet, so it is refused rather than ignored.
    """

    key: Secret = Secret(b"")
    key_id: str = ""
    team_id: str = ""
    cert: Secret = Secret(b"")
    p12: Secret = Secret(b"")
    password: Secret = Secret(b"")
    topic: str = ""
    voip_topic: str = ""
    environment: Literal["production", "sandbox"] = "production"


def build(name: str, config: Config) -> Provider:
    """Raises ValueError that names the key of the block which is wrong, what was found and what is allowed."""
    given = [key for key in ("key", "cert", "p12") if getattr(config, key)]
    if len(given) != 1:
        found = " and ".join(f"{key}_file" for key in given) or "none"
        raise ValueError(f"key_file: exactly one of key_file, cert_file and p12_file is wanted, found {found}")
    if config.voip_topic:
        raise ValueError(f"voip_topic: found {config.voip_topic!r}; calls are not built yet, so leave it out")
    if config.key:
        return _with_key(name, config)
    if config.cert:
        return _with_certificate(name, config, load_identity("cert_file", config.cert, config.password))
    return _with_certificate(name, config, load_p12("p12_file", config.p12, config.password))


class Prepared(Quiet, frozen=True):
    headers: dict[str, str]
    body: bytes


class Apns(Provider):
    def __init__(self, name: str, transport: Transport, topic: str, credential: SignedToken | None, about: str) -> None:
        self.name = name
        self.transport = transport
        self.credential = credential
        self._topic = topic
        self._about = about

    def prepare(self, notice: Notice, budget: int | None = None) -> Prepared:
        limit = min(budget or PAYLOAD_LIMIT, PAYLOAD_LIMIT)
        title, text = clean(notice.title), clean(notice.body)
        payload = _payload(notice, title, text)
        if len(payload) > limit:
            # The data is the app's and stays whole; the title is cut only where it leaves no room at all.
            title = fit(title, lambda part: len(_payload(notice, part, "")), limit)
            text = fit(text, lambda part: len(_payload(notice, title, part)), limit)
            payload = _payload(notice, title, text)
        headers = {
            "apns-topic": self._topic,
            "apns-push-type": PushType.ALERT.value,
            "apns-priority": "10",
            "apns-collapse-id": notice.message_id[:64],
        }
        if notice.expires_at is not None:
            headers["apns-expiration"] = str(notice.expires_at)
        return Prepared(headers, payload)

    def request(self, prepared: Prepared, target: Target) -> Request:
        headers = {**prepared.headers, "apns-id": target.push_id}
        if self.credential is not None:
            headers["authorization"] = self.credential.header
        return Request("POST", _path(target.token), headers, prepared.body)

    def read(self, response: Response) -> Outcome:
        if response.status == 200:
            return Delivered(answers.plain(response.headers.get("apns-id")))
        error = answers.json_object(response.body)
        reason = answers.plain(error.get("reason"))
        outcome = _TABLE.get((response.status, reason)) or answers.by_status(response, reason)
        if isinstance(outcome, TokenInvalid):
            since = error.get("timestamp")
            return replace(outcome, since=since) if isinstance(since, int) and since > 0 else outcome
        if isinstance(outcome, Throttled):
            return replace(outcome, after=max(answers.retry_after(response) or 0.0, outcome.after))
        if isinstance(outcome, Retry):
            asked = answers.retry_after(response)
            after = outcome.after if asked is None else max(asked, _SHORTEST_REST)
            return replace(outcome, after=max(after or 0.0, _FAULT_REST) if response.status >= 500 else after)
        return outcome

    def describe(self) -> str:
        assert self.transport is not None
        return f"APNs: alerts for {self._topic} to {self.transport.endpoint}, {self._about}"


def _payload(notice: Notice, title: str, body: str) -> bytes:
    alert = {"title": title, "body": body} if title else {"body": body}
    aps = {"alert": alert, "sound": clean(notice.sound), "thread-id": clean(notice.thread), "mutable-content": 1}
    data = {clean(key): clean(value) if isinstance(value, str) else value for key, value in notice.data.items()}
    return msgspec.json.encode({"aps": aps} | {key: value for key, value in data.items() if key != "aps"})


def _path(token: str) -> str:
    """The path of a device. A token that is none is encoded so that it cannot reach another path.

    Dots are encoded twice, as URL parsers take `%2e%2e` for a step up. Apple answers BadDeviceToken.
    """
    if token.isascii() and token.isalnum() and len(token) <= 512:
        return f"/3/device/{token}"
    return "/3/device/" + quote(clean(token[:256]), safe="").replace(".", "%252E")


def _with_key(name: str, config: Config) -> Apns:
    key = load_p8("key_file", config.key)
    for field in ("key_id", "team_id"):
        if not re.fullmatch(r"[A-Z0-9]{10}", getattr(config, field)):
            found = getattr(config, field) or "nothing"
            raise ValueError(f"{field}: found {found!r}, wanted are the 10 capital letters and digits that Apple shows")
    topic = _topic(config.topic)

    def sign() -> str:
        # A fresh object a call: one object keeps its token for half an hour and cannot be told to drop it.
        signer: Any = JWTAuthorizationHeaderProvider(key, config.key_id, config.team_id)
        return str(signer.get_header())

    about = f"key {config.key_id} of team {config.team_id}"
    return Apns(name, _transport(config, b""), topic, SignedToken(sign), about)


def _with_certificate(name: str, config: Config, identity: Identity) -> Apns:
    topic = _topic(config.topic or identity.uid)
    about = f"certificate until {identity.not_after:%Y-%m-%d}"
    return Apns(name, _transport(config, identity.pem), topic, None, about)


def _transport(config: Config, identity: bytes) -> Transport:
    return transport(config, _HOSTS[config.environment], identity=identity, streams=_STREAMS)


def _topic(topic: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,254}", topic):
        raise ValueError(
            f"topic: found {topic or 'nothing'!r}, wanted is the app's bundle id, such as com.example.chat"
        )
    return topic
