from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from providers import fcm
from providers.kit.base import (
    CredentialRefused,
    Delivered,
    Misconfigured,
    Outcome,
    Provider,
    Rejected,
    Retry,
    Throttled,
    TokenInvalid,
    TooLarge,
    Unreachable,
)
from providers.kit.values import Secret
from tests.providers.contract import ProviderContract
from tests.providers.material import (
    BODY,
    DEVICE_TOKEN,
    NOW,
    TARGET,
    TITLE,
    FixedCredential,
    answer,
    notice,
    service_account,
)
from tests.providers.test_apns import ROWS as APPLE


def config(**changes: Any) -> fcm.Config:
    return fcm.Config(**({"type": "fcm", "service_account": Secret(service_account())} | changes))


def build(**changes: Any) -> Provider:
    provider = fcm.build("android", config(**changes), now=lambda: NOW)
    provider.credential = FixedCredential("Bearer ya29.x")
    return provider


class TestContract(ProviderContract):
    limit = 4096
    secrets = ("PRIVATE KEY",)

    def build(self) -> Provider:
        return build()


def test_the_whole_request() -> None:
    provider = build()
    request = provider.request(provider.prepare(notice()), TARGET)
    assert (request.method, request.path) == ("POST", "/v1/projects/example-chat/messages:send")
    assert request.headers == {"authorization": "Bearer ya29.x", "content-type": "application/json"}
    assert json.loads(request.body) == {
        "message": {
            "token": DEVICE_TOKEN,
            "notification": {"title": TITLE, "body": BODY},
            "data": {
                "message_id": "1790000000000000001",
                "message_seq": "7",
                "channel_id": "room1",
                "channel_type": "2",
            },
            "android": {
                "priority": "high",
                "ttl": "3600s",
                "notification": {"tag": "1790000000000000001", "sound": "default"},
            },
            "apns": {
                "headers": {
                    "apns-priority": "10",
                    "apns-push-type": "alert",
                    "apns-collapse-id": "1790000000000000001",
                    "apns-expiration": str(int(NOW) + 3600),
                },
                "payload": {"aps": {"sound": "default", "thread-id": "2:room1", "mutable-content": 1}},
            },
        }
    }


@pytest.mark.parametrize(
    ("expires_at", "ttl"), [(None, None), (int(NOW) - 5, "0s"), (int(NOW), "0s"), (int(NOW) + 10**8, "2419200s")]
)
def test_the_time_to_live_is_within_what_firebase_takes(expires_at: int | None, ttl: str | None) -> None:
    provider = build()
    request = provider.request(provider.prepare(notice(expires_at=expires_at)), TARGET)
    assert json.loads(request.body)["message"]["android"].get("ttl") == ttl


def test_reserved_data_keys_do_not_spoil_the_message() -> None:
    provider = build()
    data: dict[str, str | int] = {"from": "x", "google.c": 1, "gcm.n": 1, "message_type": "x", "from_uid": "ann"}
    request = provider.request(provider.prepare(notice(data=data)), TARGET)
    assert json.loads(request.body)["message"]["data"] == {"from_uid": "ann"}


def test_text_and_data_stay_under_their_share() -> None:
    provider = build()
    message = json.loads(provider.request(provider.prepare(notice(body="好" * 9000)), TARGET).body)["message"]
    parts = {**message["notification"], **message["data"]}
    assert 3000 < sum(len(text.encode()) for pair in parts.items() for text in pair) <= 3584


def error(status: str, message: str = "said so", *details: dict[str, object]) -> dict[str, object]:
    return {"error": {"code": 0, "status": status, "message": message, "details": list(details)}}


def fcm_error(code: str) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}


def apns_error(status: int | None, reason: str | None) -> dict[str, object]:
    said = {"statusCode": status, "reason": reason}
    kind = "type.googleapis.com/google.firebase.fcm.v1.ApnsError"
    return {"@type": kind, **{key: value for key, value in said.items() if value is not None}}


def bad_field(name: str) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": name}]}


def quota(subject: str) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"subject": subject}]}


INFO = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}
INVALID = fcm_error("INVALID_ARGUMENT")
KEY = "is the APNs key in the Firebase project right?"
NOT_VALID = "The registration token is not a valid FCM registration token"

ROWS: dict[str, tuple[int, dict[str, object], Outcome]] = {
    "unregistered": (404, error("NOT_FOUND", "x", fcm_error("UNREGISTERED")), TokenInvalid("UNREGISTERED")),
    "sender": (
        403,
        error("PERMISSION_DENIED", "x", fcm_error("SENDER_ID_MISMATCH")),
        TokenInvalid("SENDER_ID_MISMATCH", suspect=True),
    ),
    "third party": (
        401,
        error("UNAUTHENTICATED", "x", fcm_error("THIRD_PARTY_AUTH_ERROR")),
        Rejected("THIRD_PARTY_AUTH_ERROR: Firebase has no valid APNs or web push key"),
    ),
    "third party with Apple's word": (
        401,
        error("UNAUTHENTICATED", "x", fcm_error("THIRD_PARTY_AUTH_ERROR"), apns_error(403, "InvalidProviderToken")),
        Rejected(f"THIRD_PARTY_AUTH_ERROR: APNs: InvalidProviderToken; {KEY}"),
    ),
    "access token": (
        401,
        error("UNAUTHENTICATED"),
        Misconfigured("UNAUTHENTICATED: the access token is refused", renew=True),
    ),
    "permission": (
        403,
        error("PERMISSION_DENIED", "x", INFO),
        Misconfigured("PERMISSION_DENIED: SERVICE_DISABLED: may the service account send, and is the FCM API enabled?"),
    ),
    "project": (404, error("NOT_FOUND"), Misconfigured("NOT_FOUND: is project_id right?")),
    "quota": (
        429,
        error("RESOURCE_EXHAUSTED", "x", fcm_error("QUOTA_EXCEEDED")),
        Throttled("QUOTA_EXCEEDED", after=60.0),
    ),
    "project quota": (
        429,
        error("RESOURCE_EXHAUSTED", "x", fcm_error("QUOTA_EXCEEDED"), quota("project:1")),
        Throttled("QUOTA_EXCEEDED", after=60.0),
    ),
    "device quota": (
        429,
        error("RESOURCE_EXHAUSTED", "x", fcm_error("QUOTA_EXCEEDED"), quota("device:abc")),
        Retry("QUOTA_EXCEEDED", after=60.0, device=True),
    ),
    "bare 429": (429, error("RESOURCE_EXHAUSTED"), Throttled("HTTP 429", after=60.0)),
    "internal": (500, error("INTERNAL", "x", fcm_error("INTERNAL")), Retry("INTERNAL", after=10.0)),
    "unavailable": (503, error("UNAVAILABLE", "x", fcm_error("UNAVAILABLE")), Retry("UNAVAILABLE", after=10.0)),
    "gateway": (502, {}, Retry("HTTP 502", after=10.0)),
    "gateway time-out": (504, {}, Retry("HTTP 504", after=10.0)),
    "unspecified": (
        400,
        error("INVALID_ARGUMENT", "x", fcm_error("UNSPECIFIED_ERROR")),
        Rejected("UNSPECIFIED_ERROR: x"),
    ),
    "apple: gone": (
        400,
        error("INVALID_ARGUMENT", "APNs device token is disabled.", INVALID, apns_error(410, "Unregistered")),
        TokenInvalid("APNs: Unregistered"),
    ),
    "apple: expired": (
        400,
        error("", "", INVALID, apns_error(410, "ExpiredToken")),
        TokenInvalid("APNs: ExpiredToken"),
    ),
    "apple: gone, new word": (400, error("", "", INVALID, apns_error(410, "New")), TokenInvalid("APNs: New")),
    "apple: bad token": (
        400,
        error("", "", INVALID, apns_error(400, "BadDeviceToken")),
        TokenInvalid("APNs: BadDeviceToken", suspect=True),
    ),
    "apple: wrong topic": (
        400,
        error("", "", INVALID, apns_error(400, "DeviceTokenNotForTopic")),
        TokenInvalid("APNs: DeviceTokenNotForTopic", suspect=True),
    ),
    "apple: too large": (
        400,
        error("", "", INVALID, apns_error(413, "PayloadTooLarge")),
        TooLarge("APNs: PayloadTooLarge"),
    ),
    "apple: device limit": (
        429,
        error("", "", apns_error(429, "TooManyRequests")),
        Retry("APNs: TooManyRequests", after=60.0, device=True),
    ),
    "apple: device limit, as a quota": (
        429,
        error("RESOURCE_EXHAUSTED", "", fcm_error("QUOTA_EXCEEDED"), apns_error(429, "TooManyRequests")),
        Retry("APNs: TooManyRequests", after=60.0, device=True),
    ),
    "apple: new limit, without a status": (
        429,
        error("RESOURCE_EXHAUSTED", "", fcm_error("QUOTA_EXCEEDED"), apns_error(None, "New")),
        Retry("APNs: New", after=60.0, device=True),
    ),
    "apple: without a word": (
        503,
        error("", "", apns_error(None, None)),
        Retry("APNs: no reason", after=10.0, device=True),
    ),
    "apple: topic": (
        401,
        error("UNAUTHENTICATED", "", fcm_error("THIRD_PARTY_AUTH_ERROR"), apns_error(None, "BadTopic")),
        Rejected(f"THIRD_PARTY_AUTH_ERROR: APNs: BadTopic; {KEY}"),
    ),
    "gone, whatever Apple says": (
        404,
        error("NOT_FOUND", "", fcm_error("UNREGISTERED"), apns_error(503, "Shutdown")),
        TokenInvalid("UNREGISTERED"),
    ),
    "apple: down": (503, error("", "", apns_error(503, "Shutdown")), Retry("APNs: Shutdown", after=10.0, device=True)),
    "apple: down, as google says": (
        503,
        error("UNAVAILABLE", "x", fcm_error("UNAVAILABLE"), apns_error(503, "ServiceUnavailable")),
        Retry("APNs: ServiceUnavailable", after=10.0, device=True),
    ),
    "apple: key": (
        400,
        error("", "", INVALID, apns_error(403, "BadEnvironmentKeyInToken")),
        Rejected(f"INVALID_ARGUMENT: APNs: BadEnvironmentKeyInToken; {KEY}"),
    ),
    "apple goes before a field": (
        400,
        error("", "", bad_field("message.data"), apns_error(410, "Unregistered")),
        TokenInvalid("APNs: Unregistered"),
    ),
    "token field": (
        400,
        error("INVALID_ARGUMENT", "bad", bad_field("message.token")),
        TokenInvalid("INVALID_ARGUMENT: bad"),
    ),
    "fid field": (
        400,
        error("INVALID_ARGUMENT", "bad", bad_field("message.fid")),
        TokenInvalid("INVALID_ARGUMENT: bad"),
    ),
    "data field": (
        400,
        error("INVALID_ARGUMENT", "bad", INVALID, bad_field("message.data[0].value")),
        Rejected("INVALID_ARGUMENT: message.data[0].value: bad"),
    ),
    "a field goes before the text": (
        400,
        error("INVALID_ARGUMENT", NOT_VALID, INVALID, bad_field("message.data[0].value")),
        Rejected(f"INVALID_ARGUMENT: message.data[0].value: {NOT_VALID}"),
    ),
    "token text": (
        400,
        error("INVALID_ARGUMENT", NOT_VALID, INVALID),
        TokenInvalid(f"INVALID_ARGUMENT: {NOT_VALID}"),
    ),
    "token text without the code": (
        400,
        error("INVALID_ARGUMENT", NOT_VALID),
        Rejected(f"INVALID_ARGUMENT: {NOT_VALID}"),
    ),
    "too big": (
        400,
        error("INVALID_ARGUMENT", "Android message is too big", INVALID),
        TooLarge("INVALID_ARGUMENT: Android message is too big"),
    ),
    "too large": (
        400,
        error("INVALID_ARGUMENT", "Message is too large. The maximum is 4K", INVALID),
        TooLarge("INVALID_ARGUMENT: Message is too large. The maximum is 4K"),
    ),
    "413": (413, {}, TooLarge("HTTP 413")),
    "other": (400, error("INVALID_ARGUMENT", "ttl", INVALID), Rejected("INVALID_ARGUMENT: ttl")),
}


@pytest.mark.parametrize("case", ROWS)
def test_answers(case: str) -> None:
    status, body, outcome = ROWS[case]
    assert build().read(answer(status, body)) == outcome


@pytest.mark.parametrize(("status", "reason", "of_apple"), [row for row in APPLE if row[1] != "New"])
def test_apples_words_mean_what_they_mean_from_apple_but_stop_nobody(
    status: int, reason: str, of_apple: Outcome
) -> None:
    provider = build()
    for code in ("INVALID_ARGUMENT", "QUOTA_EXCEEDED", "THIRD_PARTY_AUTH_ERROR"):
        for told in (status, None):
            found = provider.read(answer(400, error("", "", fcm_error(code), apns_error(told, reason))))
            assert not isinstance(found, Delivered)
            assert f"APNs: {reason}" in found.reason
            assert getattr(found, "suspect", False) == getattr(of_apple, "suspect", False)
            if isinstance(of_apple, Misconfigured):
                assert isinstance(found, Rejected)
            elif isinstance(of_apple, Retry | Throttled):
                assert isinstance(found, Retry)
                assert found.after == max(of_apple.after or 0, 10)
            else:
                assert type(found) is type(of_apple)


@pytest.mark.parametrize(("status", "kind"), [(400, Rejected), (403, Rejected), (413, TooLarge), (429, Retry)])
def test_a_new_word_of_apples_is_judged_by_its_status(status: int, kind: type[Outcome]) -> None:
    body = error("INVALID_ARGUMENT", "", INVALID, apns_error(status, "New"))
    assert type(build().read(answer(400, body))) is kind


def test_what_got_no_answer_rests_as_long_as_what_got_one() -> None:
    assert build().soonest == 10.0


def test_a_delivery_is_named() -> None:
    name = "projects/example-chat/messages/0:1"
    assert build().read(answer(200, {"name": name})) == Delivered(name)
    assert build().read(answer(200)) == Delivered("")


@pytest.mark.parametrize(
    ("status", "header", "outcome"),
    [
        (503, "120", Retry("UNAVAILABLE", after=120.0)),
        (503, "1", Retry("UNAVAILABLE", after=10.0)),
        (429, "5", Throttled("UNAVAILABLE", after=5.0)),
    ],
)
def test_retry_after(status: int, header: str, outcome: Outcome) -> None:
    code = "QUOTA_EXCEEDED" if status == 429 else "UNAVAILABLE"
    found = build().read(answer(status, error("", "", fcm_error(code)), retry_after=header))
    assert type(found) is type(outcome)
    assert isinstance(found, Retry | Throttled)
    assert found.after == getattr(outcome, "after", None)


class TokenAnswer:
    """What a token endpoint answers, in the shape that google-auth reads."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.data = body
        self.headers: dict[str, str] = {"content-type": "application/json"}


def fetch(status: int, body: object, monkeypatch: pytest.MonkeyPatch) -> str:
    """The authorization header after one look at a token endpoint that answers so."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def blocking(_: object) -> Any:
        return lambda *args, **kwargs: TokenAnswer(status, content)

    monkeypatch.setattr(fcm, "blocking", blocking)
    monkeypatch.setattr("time.sleep", lambda _: None)  # google-auth waits between its own attempts
    credential = fcm.build("android", config()).credential
    assert credential is not None
    asyncio.run(credential.ready())
    return credential.header


def test_an_access_token_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"access_token": "ya29.new", "expires_in": 3599, "token_type": "Bearer"}
    assert fetch(200, body, monkeypatch) == "Bearer ya29.new"


def test_a_refused_key_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CredentialRefused, match="invalid_grant"):
        fetch(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, monkeypatch)


@pytest.mark.parametrize("status", [500, 503])
def test_a_token_endpoint_in_trouble_is_asked_again_later(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable):
        fetch(status, {"error": "internal_failure"}, monkeypatch)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"hello",
        b"null",
        {"access_token": None, "expires_in": 3599},
        {"access_token": "", "expires_in": 3599},
        {"access_token": ["ya29.new"], "expires_in": 3599},
        {"access_token": "ya29\nnew", "expires_in": 3599},
        {"access_token": "ya29.new"},
        {"access_token": "ya29.new", "expires_in": "soon"},
        {"access_token": "ya29.new", "expires_in": 10**20},
    ],
)
def test_a_token_endpoint_that_answers_no_token_is_asked_again_later(
    body: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreachable, match="answered no token"):
        fetch(200, body, monkeypatch)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"service_account": Secret(b"")}, "service_account_file: nothing found"),
    "text": ({"service_account": Secret(b"hello")}, "service_account_file: found something else"),
    "the app's file": ({"service_account": Secret(b'{"project_info":{}}')}, "found google-services.json"),
    "no key": ({"service_account": Secret(service_account(private_key=None))}, "private_key missing"),
    "bad key": ({"service_account": Secret(service_account(private_key="hello"))}, "its private_key cannot be read"),
    "no project": ({"service_account": Secret(service_account(project_id=None))}, "project_id: found 'nothing'"),
    "odd project": ({"project_id": "a/b"}, "project_id: found 'a/b'"),
    "endpoint": ({"endpoint": "ftp://x"}, "endpoint: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_block_is_refused_by_key(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        fcm.build("android", config(**changes))
    assert "BEGIN" not in str(caught.value)


def test_the_project_of_the_block_goes_first() -> None:
    provider = build(project_id="other-project")
    assert "/projects/other-project/" in provider.request(provider.prepare(notice()), TARGET).path
