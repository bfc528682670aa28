from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from providers import apns
from providers.kit.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Provider,
    Rejected,
    Retry,
    Target,
    Throttled,
    TokenInvalid,
    TooLarge,
)
from providers.kit.values import Secret
from tests.providers.contract import ProviderContract
from tests.providers.material import (
    BODY,
    DEVICE_TOKEN,
    NOW,
    PUSH_ID,
    TARGET,
    TITLE,
    FixedCredential,
    answer,
    certificate,
    certificate_pem,
    ec_key,
    notice,
    pem,
    rsa_key,
)


def config(**changes: Any) -> apns.Config:
    base: dict[str, Any] = {
        "type": "apns",
        "key": Secret(pem(ec_key())),
        "key_id": "ABC1234567",
        "team_id": "DEF1234567",
        "topic": "com.example.chat",
    }
    return apns.Config(**(base | changes))


def by_certificate(**changes: Any) -> apns.Config:
    return config(**({"key": Secret(b""), "key_id": "", "team_id": "", "topic": ""} | changes))


@cache
def p12(password: bytes = b"open", days: int = 30, **changes: Any) -> Secret:
    parts: dict[str, Any] = {"name": b"push", "key": rsa_key(), "cert": certificate(rsa_key(), days=days), "cas": None}
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    return Secret(serialize_key_and_certificates(**(parts | changes), encryption_algorithm=lock))


class TestContract(ProviderContract):
    limit = apns.PAYLOAD_LIMIT
    secrets = ("PRIVATE KEY", "proxy-password")

    def build(self) -> Provider:
        return apns.build("ios", config(proxy="http://user:proxy-password@127.0.0.1:1"))


class TestContractByCertificate(ProviderContract):
    limit = apns.PAYLOAD_LIMIT
    secrets = ("PRIVATE KEY",)

    def build(self) -> Provider:
        return apns.build("ios", by_certificate(p12=p12(), password=Secret("open")))


def test_the_whole_request() -> None:
    provider = apns.build("ios", config())
    provider.credential = FixedCredential("bearer x.y.z")
    request = provider.request(provider.prepare(notice()), TARGET)
    assert (request.method, request.path) == ("POST", f"/3/device/{DEVICE_TOKEN}")
    assert request.headers == {
        "authorization": "bearer x.y.z",
        "apns-id": PUSH_ID,
        "apns-topic": "com.example.chat",
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-expiration": str(int(NOW) + 3600),
        "apns-collapse-id": "1790000000000000001",
    }
    assert json.loads(request.body) == {
        "aps": {
            "alert": {"title": TITLE, "body": BODY},
            "sound": "default",
            "thread-id": "2:room1",
            "mutable-content": 1,
        },
        "message_id": "1790000000000000001",
        "message_seq": 7,
        "channel_id": "room1",
        "channel_type": 2,
    }
    assert b": " not in request.body.replace(BODY.encode(), b"")


def test_what_is_absent_is_left_out() -> None:
    provider = apns.build("ios", by_certificate(p12=p12(), password=Secret("open")))
    request = provider.request(provider.prepare(notice(title="", expires_at=None)), TARGET)
    assert json.loads(request.body)["aps"]["alert"] == {"body": BODY}
    assert not {"apns-expiration", "authorization"} & request.headers.keys()


def test_data_cannot_replace_the_notification() -> None:
    provider = apns.build("ios", by_certificate(p12=p12(), password=Secret("open")))
    request = provider.request(provider.prepare(notice(data={"aps": "theirs"})), TARGET)
    assert json.loads(request.body)["aps"]["alert"]["body"] == BODY


def test_the_longest_text_fills_the_payload() -> None:
    provider = apns.build("ios", by_certificate(p12=p12(), password=Secret("open")))
    assert len(provider.request(provider.prepare(notice(body="x" * 9000)), TARGET).body) == 4096


ROWS: list[tuple[int, str, Outcome]] = [
    (400, "BadCollapseId", Rejected("BadCollapseId")),
    (400, "BadDeviceToken", TokenInvalid("BadDeviceToken", suspect=True)),
    (400, "BadExpirationDate", Rejected("BadExpirationDate")),
    (400, "BadMessageId", Rejected("BadMessageId")),
    (400, "BadPriority", Rejected("BadPriority")),
    (400, "BadTopic", Misconfigured("BadTopic")),
    (400, "DeviceTokenNotForTopic", TokenInvalid("DeviceTokenNotForTopic", suspect=True)),
    (400, "DuplicateHeaders", Rejected("DuplicateHeaders")),
    (400, "IdleTimeout", Retry("IdleTimeout", reconnect=True)),
    (400, "InvalidPushType", Rejected("InvalidPushType")),
    (400, "MissingDeviceToken", Rejected("MissingDeviceToken")),
    (400, "MissingTopic", Misconfigured("MissingTopic")),
    (400, "PayloadEmpty", Rejected("PayloadEmpty")),
    (400, "TopicDisallowed", Misconfigured("TopicDisallowed")),
    (403, "BadCertificate", Misconfigured("BadCertificate")),
    (403, "BadCertificateEnvironment", Misconfigured("BadCertificateEnvironment")),
    (403, "ExpiredProviderToken", Misconfigured("ExpiredProviderToken", renew=True)),
    (403, "Forbidden", Misconfigured("Forbidden")),
    (403, "InvalidProviderToken", Misconfigured("InvalidProviderToken")),
    (403, "MissingProviderToken", Misconfigured("MissingProviderToken")),
    (403, "UnrelatedKeyIdInToken", Misconfigured("UnrelatedKeyIdInToken", renew=True)),
    (403, "BadEnvironmentKeyIdInToken", Misconfigured("BadEnvironmentKeyIdInToken")),
    (403, "BadEnvironmentKeyInToken", Misconfigured("BadEnvironmentKeyInToken")),
    (404, "BadPath", Rejected("BadPath")),
    (405, "MethodNotAllowed", Rejected("MethodNotAllowed")),
    (410, "ExpiredToken", TokenInvalid("ExpiredToken")),
    (410, "Unregistered", TokenInvalid("Unregistered")),
    (413, "PayloadTooLarge", TooLarge("PayloadTooLarge")),
    (429, "TooManyProviderTokenUpdates", Throttled("TooManyProviderTokenUpdates", after=60.0, reconnect=True)),
    (429, "TooManyRequests", Retry("TooManyRequests", after=60.0, device=True)),
    (500, "InternalServerError", Retry("InternalServerError", after=5.0, reconnect=True)),
    (503, "ServiceUnavailable", Retry("ServiceUnavailable", after=5.0)),
    (503, "Shutdown", Retry("Shutdown", after=5.0, reconnect=True)),
    (400, "New", Rejected("New")),
    (401, "New", Misconfigured("New")),
    (403, "New", Misconfigured("New")),
    (410, "New", TokenInvalid("New")),
    (413, "New", TooLarge("New")),
    (429, "New", Retry("New", after=60.0)),
    (500, "New", Retry("New", after=5.0)),
    (503, "New", Retry("New", after=5.0)),
]


@pytest.mark.parametrize(("status", "reason", "outcome"), ROWS)
def test_answers(status: int, reason: str, outcome: Outcome) -> None:
    found = apns.build("ios", config()).read(answer(status, {"reason": reason}))
    # A hint may follow Apple's word.
    assert isinstance(found, type(outcome))
    assert not isinstance(found, Delivered)
    assert found.reason.partition(";")[0] == reason
    assert msgspec.structs.replace(found, reason=reason) == outcome


def test_a_delivery_is_named_by_its_id() -> None:
    assert apns.build("ios", config()).read(answer(200, apns_id="AB-1")) == Delivered("AB-1")
    assert apns.build("ios", config()).read(answer(200)) == Delivered("")


def test_the_time_of_death_is_kept() -> None:
    provider = apns.build("ios", config())
    body: dict[str, object] = {"reason": "Unregistered", "timestamp": 1_700_000_000_123}
    assert provider.read(answer(410, body)) == TokenInvalid("Unregistered", since=1_700_000_000_123)
    for odd in ("1700000000123", -1, None, 1.5, [1]):
        assert provider.read(answer(410, body | {"timestamp": odd})) == TokenInvalid("Unregistered")


def test_retry_after_goes_before_our_own_figure() -> None:
    provider = apns.build("ios", config())
    limited = answer(429, {"reason": "TooManyRequests"}, retry_after="7")
    assert provider.read(limited) == Retry("TooManyRequests", after=7.0, device=True)
    updates = answer(429, {"reason": "TooManyProviderTokenUpdates"}, retry_after="1200")
    assert provider.read(updates) == Throttled("TooManyProviderTokenUpdates", after=1200.0, reconnect=True)
    for asked, after in (("2", 5.0), ("900", 900.0)):
        down = answer(503, {"reason": "ServiceUnavailable"}, retry_after=asked)
        assert provider.read(down) == Retry("ServiceUnavailable", after=after)


@pytest.mark.parametrize("asked", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_retry_after_never_means_at_once(asked: str) -> None:
    provider = apns.build("ios", config())
    for status, reason, outcome in ROWS:
        if isinstance(outcome, Retry | Throttled):
            found = provider.read(answer(status, {"reason": reason}, retry_after=asked))
            assert isinstance(found, Retry | Throttled)
            assert found.after is not None
            assert found.after >= (outcome.after if isinstance(outcome, Throttled) else 1.0)


async def _header(provider: Provider) -> str:
    assert provider.credential is not None
    await provider.credential.ready()
    return provider.credential.header


def test_the_provider_token_is_apples() -> None:
    header = asyncio.run(_header(apns.build("ios", config())))
    scheme, _, token = header.partition(" ")
    claims = jwt.decode(token, ec_key().public_key(), algorithms=["ES256"])
    assert scheme == "bearer"
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "ABC1234567", "typ": "JWT"}
    assert claims.keys() == {"iss", "iat"}
    assert claims["iss"] == "DEF1234567"


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [("production", "https://api.push.apple.com"), ("sandbox", "https://api.sandbox.push.apple.com")],
)
def test_the_environment_chooses_the_host(environment: str, endpoint: str) -> None:
    transport = apns.build("ios", config(environment=environment)).transport
    assert transport is not None
    assert transport.endpoint == endpoint
    assert transport.identity == b""


def test_a_certificate_gives_identity_and_topic() -> None:
    own = certificate_pem(certificate(rsa_key()))
    locked = by_certificate(cert=Secret(own + pem(rsa_key(), b"open")), password=Secret("open"))
    for chosen in (
        by_certificate(cert=Secret(own + pem(rsa_key()))),
        locked,
        by_certificate(p12=p12(), password=Secret("open")),
        by_certificate(p12=p12(b"")),
    ):
        provider = apns.build("ios", chosen)
        assert provider.credential is None
        assert provider.transport is not None
        assert b"BEGIN PRIVATE KEY" in provider.transport.identity  # pragma: allowlist secret
        assert b"BEGIN CERTIFICATE" in provider.transport.identity
        assert provider.request(provider.prepare(notice()), TARGET).headers["apns-topic"] == "com.example.chat"


def test_a_token_of_any_length_goes_into_the_path_as_it_is() -> None:
    provider = apns.build("ios", by_certificate(p12=p12(), password=Secret("open")))
    prepared = provider.prepare(notice())
    assert provider.request(prepared, Target("p", "AB" * 80, PUSH_ID)).path == "/3/device/" + "AB" * 80


EC_CERT = certificate_pem(certificate(ec_key()))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"key": Secret(b"")}, "key_file: exactly one of .* found none"),
    "key and certificate": ({"cert": Secret(EC_CERT)}, "found key_file and cert_file"),
    "text": ({"key": Secret(b"hello")}, "key_file: found something that is no private key"),
    "certificate as key": ({"key": Secret(EC_CERT)}, "key_file: found a certificate"),
    "binary": ({"key": Secret(b"\xff\x00")}, "key_file: found something that is no private key"),
    "RSA key": ({"key": Secret(pem(rsa_key()))}, "key_file: .*RSA"),
    "wrong curve": ({"key": Secret(pem(ec_key(ec.SECP384R1)))}, "key_file: found a key on the curve secp384r1"),
    "locked key": ({"key": Secret(pem(ec_key(), b"pw"))}, "key_file: .*locked by a password"),
    "no key id": ({"key_id": ""}, "key_id: found 'nothing'"),
    "short key id": ({"key_id": "abc"}, "key_id: found 'abc', wanted are the 10"),
    "no team id": ({"team_id": ""}, "team_id: found 'nothing'"),
    "no topic": ({"topic": ""}, "topic: found 'nothing', wanted is the app's bundle id"),
    "odd topic": ({"topic": "a\nb"}, "topic: found"),
    "voip": ({"voip_topic": "x.voip"}, "voip_topic: .*not built yet"),
    "endpoint": ({"endpoint": "api.push.apple.com"}, "endpoint: "),
    "endpoint with a secret": ({"endpoint": "https://u:p@h"}, "endpoint: "),
    "proxy": ({"proxy": "socks5://h"}, "proxy: "),
    "ca": ({"ca": Secret(b"hello")}, "ca_file: holds no certificate"),
    "broken ca": (
        {"ca": Secret(b"-----BEGIN CERTIFICATE-----\nMTIz\n-----END CERTIFICATE-----\n")},
        "ca_file: cannot be used",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_block_is_refused_by_key(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        apns.build("ios", config(**changes))


REFUSED_CERTIFICATES: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"cert": Secret(b"hello")}, "cert_file: found no certificate"),
    "certificate alone": ({"cert": Secret(EC_CERT)}, "cert_file: found a certificate without its private key"),
    "key of another": ({"cert": Secret(EC_CERT + pem(rsa_key()))}, "cert_file: the private key does not belong"),
    "locked": ({"cert": Secret(EC_CERT + pem(ec_key(), b"pw"))}, "cert_file: its key is locked .*password"),
    "wrong password": (
        {"cert": Secret(EC_CERT + pem(ec_key(), b"pw")), "password": Secret("no")},
        "cert_file: .*`password` does not open it",
    ),
    "needless password": (
        {"cert": Secret(EC_CERT + pem(ec_key())), "password": Secret("no")},
        "cert_file: no password is needed",
    ),
    "expired": (
        {"cert": Secret(certificate_pem(certificate(ec_key(), days=-1)) + pem(ec_key()))},
        "cert_file: the certificate has expired on 20",
    ),
    "no uid": (
        {"cert": Secret(certificate_pem(certificate(ec_key(), uid="")) + pem(ec_key()))},
        "topic: found 'nothing'",
    ),
    "p12 without password": ({"p12": p12()}, "p12_file: .*`password` does not open it"),
    "p12 text": ({"p12": Secret(b"hello")}, "p12_file: is no PKCS #12 file"),
    "p12 expired": ({"p12": p12(days=-1), "password": Secret("open")}, "p12_file: the certificate has expired"),
    "p12 without key": (
        {"p12": p12(key=None, cert=None, cas=(certificate(rsa_key()),)), "password": Secret("open")},
        "p12_file: found no",
    ),
}


@pytest.mark.parametrize("case", REFUSED_CERTIFICATES)
def test_a_bad_certificate_is_refused_by_key(case: str) -> None:
    changes, message = REFUSED_CERTIFICATES[case]
    with pytest.raises(ValueError, match=message):
        apns.build("ios", by_certificate(**changes))
