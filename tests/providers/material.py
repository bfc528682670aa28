"""Keys, certificates and notices for the provider tests; every key is made afresh and fit for nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from providers.kit.base import Notice, Response, Target

TITLE, BODY = "Ann Title-Marker", "Are you coming? Body-Marker"
PUSH_ID = "0b1f7a52-5d3c-5a7e-9d0c-1d2e3f405162"
DEVICE_TOKEN = "a1b2c3d4" * 8
TARGET = Target("phone", DEVICE_TOKEN, PUSH_ID)
NOW = 1_800_000_000.0

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class FixedCredential:
    """A credential that is always ready, and remembers which headers were refused."""

    def __init__(self, header: str = "bearer fixed-credential-header") -> None:
        self.header = header
        self.refused: list[str] = []

    async def ready(self) -> None:
        return None

    def refuse(self, header: str) -> None:
        self.refused.append(header)


def notice(**changes: object) -> Notice:
    base = Notice(
        message_id="1790000000000000001",
        title=TITLE,
        body=BODY,
        thread="2:room1",
        data={"message_id": "1790000000000000001", "message_seq": 7, "channel_id": "room1", "channel_type": 2},
        expires_at=int(NOW) + 3600,
    )
    return msgspec.structs.replace(base, **changes)


def answer(status: int, body: object = b"", **headers: str) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


@cache
def ec_key(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def pem(key: PrivateKey, password: bytes = b"") -> bytes:
    locked = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)


def certificate(key: PrivateKey, uid: str = "com.example.chat", days: int = 30) -> x509.Certificate:
    """A self-signed X.509 v3 certificate with Apple's way of naming the app, ending `days` from now."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, "Apple Push Services: test")]
    if uid:
        attributes.append(x509.NameAttribute(NameOID.USER_ID, uid))
    name = x509.Name(attributes)
    end = datetime.now(UTC) + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=365))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def certificate_pem(found: x509.Certificate) -> bytes:
    return found.public_bytes(Encoding.PEM)


def service_account(**changes: object) -> bytes:
    account: dict[str, object] = {
        "type": "service_account",
        "project_id": "example-chat",
        "private_key_id": "f00d",
        "private_key": pem(rsa_key(1024)).decode(),  # half of Google's: each load checks it, for 40 ms at 2,048
        "client_email": "push@example-chat.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    account |= changes
    return json.dumps({key: value for key, value in account.items() if value is not None}).encode()
