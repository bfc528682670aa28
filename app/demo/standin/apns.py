"""How APNs answers: its checks, their order and its reasons.

Order of the checks as in the validating mock server of jchambers/pushy; reasons as in Apple's "Handling notification
responses from APNs". Where Apple documents no reason (a background push with priority 10, a body that is no JSON
object) the nearest one is used.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from app.demo.standin.values import Answer, Call, Headers

_PREFIX = "/3/device/"
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DEVICE = re.compile(r"[0-9a-fA-F]{64,200}")
_TOKEN_LIFE = 3600
_SUFFIXES = {
    b"alert": b"",
    b"background": b"",
    b"mdm": b"",
    b"voip": b".voip",
    b"liveactivity": b".push-type.liveactivity",
    b"location": b".location-query",
    b"complication": b".complication",
    b"fileprovider": b".pushkit.fileprovider",
    b"pushtotalk": b".voip-ptt",
    b"controls": b".push-type.controls",
    b"widgets": b".push-type.widgets",
}

Refusal = tuple[int, str]
_Fields = dict[bytes, bytes]


class Apns:
    """The vendor behind one topic and one signing key. `rotate` makes the provider tokens seen so far expire."""

    name = "apns"

    def __init__(self, key: EllipticCurvePublicKey, key_id: str, team_id: str, topic: str) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._topic = topic.encode()
        self._checks: tuple[Callable[[Call, _Fields], Refusal | None], ...] = (
            self._identity,
            self._routing,
            self._delivery,
            self._target,
            self._authority,
            self._payload,
        )
        self._issued: dict[bytes, float] = {}
        self.reset()

    def reset(self) -> None:
        self._issued.clear()
        self._expired: set[bytes] = set()
        self._expired_before = 0.0
        self._wedging = False
        self._wedged: set[int] = set()

    def rotate(self, wedge: bool = True) -> None:
        """Refuse every provider token minted before now; `wedge`: and all on a connection that once used one."""
        self._expired.update(self._issued)
        self._expired_before = float(int(time.time()))
        self._wedging = wedge

    def device(self, call: Call) -> str:
        return call.path.removeprefix(_PREFIX) if call.path.startswith(_PREFIX) else ""

    def usual_headers(self, call: Call, status: int) -> Headers:
        given = next((value for name, value in call.headers if name == b"apns-id"), None)
        own = given if given is not None and _UUID.fullmatch(given) else str(uuid.uuid4()).upper().encode()
        headers = ((b"apns-id", own),)
        return (*headers, (b"apns-unique-id", str(uuid.uuid4()).encode())) if status == 200 else headers

    def answer(self, call: Call) -> Answer:
        fields = dict(call.headers)
        refusal = next((found for check in self._checks if (found := check(call, fields)) is not None), None)
        if refusal is None:
            return Answer(headers=self.usual_headers(call, 200))
        status, reason = refusal
        return Answer(status, self.usual_headers(call, status), msgspec.json.encode({"reason": reason}))

    def _identity(self, call: Call, fields: _Fields) -> Refusal | None:
        if len(fields) != len(call.headers):
            return 400, "DuplicateHeaders"
        if b"apns-id" in fields and not _UUID.fullmatch(fields[b"apns-id"]):
            return 400, "BadMessageId"
        return None if call.method == "POST" else (405, "MethodNotAllowed")

    def _routing(self, call: Call, fields: _Fields) -> Refusal | None:
        if b"apns-topic" not in fields and not call.certified:
            return 400, "MissingTopic"
        if len(fields.get(b"apns-collapse-id", b"")) > 64:
            return 400, "BadCollapseId"
        return None

    def _delivery(self, call: Call, fields: _Fields) -> Refusal | None:
        priority, kind = fields.get(b"apns-priority", b"10"), fields.get(b"apns-push-type", b"alert")
        if priority not in (b"10", b"5", b"1") or (kind == b"background" and priority == b"10"):
            return 400, "BadPriority"
        if not fields.get(b"apns-expiration", b"0").isdigit():
            return 400, "BadExpirationDate"
        return None if kind in _SUFFIXES else (400, "InvalidPushType")

    def _target(self, call: Call, fields: _Fields) -> Refusal | None:
        if not call.path.startswith(_PREFIX):
            return 404, "BadPath"
        if not call.device:
            return 400, "MissingDeviceToken"
        if not _DEVICE.fullmatch(call.device):
            return 400, "BadDeviceToken"
        topic = fields.get(b"apns-topic", self._topic)
        suffix = _SUFFIXES[fields.get(b"apns-push-type", b"alert")]
        return None if topic == self._topic + suffix else (400, "DeviceTokenNotForTopic")

    def _authority(self, call: Call, fields: _Fields) -> Refusal | None:
        if call.certified:
            return None
        scheme, _, token = fields.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token:
            return 403, "MissingProviderToken"
        if token not in self._issued:
            issued = self._minted(token)
            if issued is None:
                return 403, "InvalidProviderToken"
            self._issued[token] = issued
        if self._is_expired(token, self._issued[token], call.connection):
            return 403, "ExpiredProviderToken"
        return None

    def _minted(self, token: bytes) -> float | None:
        """When the token was minted; None where it is not ours to accept."""
        try:
            if jwt.get_unverified_header(token).get("kid") != self._key_id:
                return None
            claims = jwt.decode(token, self._key, algorithms=["ES256"], options={"verify_iat": False})
        except jwt.InvalidTokenError:
            return None
        issued = claims.get("iat")
        return float(issued) if claims.get("iss") == self._team_id and isinstance(issued, int) else None

    def _is_expired(self, token: bytes, issued: float, connection: int) -> bool:
        old = token in self._expired or issued < self._expired_before
        if old and self._wedging:
            self._wedged.add(connection)
        return old or connection in self._wedged or abs(time.time() - issued) > _TOKEN_LIFE

    def _payload(self, call: Call, fields: _Fields) -> Refusal | None:
        try:
            payload = msgspec.json.decode(call.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            payload = None
        if not isinstance(payload, dict) or not payload:
            return 400, "PayloadEmpty"
        most = 5120 if fields.get(b"apns-push-type") == b"voip" else 4096
        return None if len(call.body) <= most else (413, "PayloadTooLarge")
