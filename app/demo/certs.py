"""Throw-away keys and certificates for the stand-in vendors. Nothing here is fit for a real service."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

_LIFE = timedelta(days=3650)
_Key = ec.EllipticCurvePrivateKey


class Authority(Struct, frozen=True):
    """Files of a certificate authority and of the server certificate that it signed for 127.0.0.1 and localhost."""

    ca_file: Path
    ca_key_file: Path
    server_file: Path
    server_key_file: Path


def make_ca_and_server(directory: Path) -> Authority:
    """The authority kept in `directory`, made when it is not there yet."""
    authority = Authority(
        directory / "ca.pem", directory / "ca-key.pem", directory / "server.pem", directory / "server-key.pem"
    )
    if all(getattr(authority, field).exists() for field in authority.__struct_fields__):
        return authority
    directory.mkdir(parents=True, exist_ok=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _builder("Pushbridge stand-in CA", ca_key, None, ca_key, authority=True).sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("localhost")])
    builder = _builder("localhost", key, ca, ca_key).add_extension(names, critical=False)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    server = builder.add_extension(usage, critical=False).sign(ca_key, hashes.SHA256())
    _write_secret(authority.ca_key_file, _pem(ca_key))
    _write_secret(authority.server_key_file, _pem(key))
    authority.ca_file.write_bytes(ca.public_bytes(Encoding.PEM))
    authority.server_file.write_bytes(server.public_bytes(Encoding.PEM))
    return authority


def write_client(path: Path, authority: Authority, name: str) -> None:
    """Write an X.509 v3 client certificate for `name` and its key, both as PEM, to one file."""
    ca_key = load_pem_private_key(authority.ca_key_file.read_bytes(), None)
    if not isinstance(ca_key, _Key):
        raise TypeError(f"{authority.ca_key_file} is not an elliptic-curve key")
    ca = x509.load_pem_x509_certificate(authority.ca_file.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    cert = _builder(name, key, ca, ca_key).add_extension(usage, critical=False).sign(ca_key, hashes.SHA256())
    _write_secret(path, cert.public_bytes(Encoding.PEM) + _pem(key))


def write_apns_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Write a fresh P-256 key in the form of Apple's `.p8` download; return what verifies its signatures."""
    key = ec.generate_private_key(ec.SECP256R1())
    _write_secret(path, _pem(key))
    return key.public_key()


def write_service_account(path: Path, project: str, token_uri: str) -> rsa.RSAPublicKey:
    """Write a Firebase service account with a fresh RSA key; return what verifies its signatures."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    account = {
        "type": "service_account",
        "project_id": project,
        "private_key_id": os.urandom(20).hex(),
        "private_key": _pem(key).decode(),
        "client_email": f"push@{project}.iam.gserviceaccount.com",
        "client_id": "100000000000000000001",
        "token_uri": token_uri,
    }
    _write_secret(path, json.dumps(account, indent=2).encode())
    return key.public_key()


def _builder(
    name: str, key: _Key, issuer: x509.Certificate | None, issuer_key: _Key, *, authority: bool = False
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _pem(key: _Key | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_secret(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
