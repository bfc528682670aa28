"""Private keys and client certificates as operators have them, checked at start with messages that help."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates
from cryptography.x509.oid import NameOID

from providers.kit.base import Quiet
from providers.kit.values import Secret

PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey


class Identity(Quiet, frozen=True):
    """A client certificate with its key.

    pem: the key and the certificates, unencrypted: a secret.
    uid: the user id in the certificate's subject, which Apple makes the app's bundle id; "" if there is none.
    """

    shown = ("uid", "not_after")

    pem: bytes
    uid: str
    not_after: datetime


def load_p8(key: str, secret: Secret) -> str:
    """The text of a P-256 private key, as Apple gives it out in a .p8 file. ValueErrors begin with `key`."""
    wanted = "wanted is the .p8 file from Apple: a P-256 private key in PEM form"
    try:
        found = load_pem_private_key(secret.raw, None)
    except TypeError:
        raise ValueError(f"{key}: found a key that is locked by a password, {wanted}") from None
    except (ValueError, UnsupportedAlgorithm):
        kind = "a certificate" if b"BEGIN CERTIFICATE" in secret.raw else "something that is no private key"
        raise ValueError(f"{key}: found {kind}, {wanted}") from None
    if not isinstance(found, EllipticCurvePrivateKey):
        raise ValueError(f"{key}: found a private key of another kind ({type(found).__name__}), {wanted}")
    if not isinstance(found.curve, SECP256R1):
        raise ValueError(f"{key}: found a key on the curve {found.curve.name}, {wanted}")
    return secret.text


def load_identity(key: str, secret: Secret, password: Secret) -> Identity:
    """A certificate and its private key from one PEM text. ValueErrors begin with `key`."""
    try:
        certificates = x509.load_pem_x509_certificates(secret.raw)
    except ValueError:
        raise ValueError(f"{key}: found no certificate, wanted is PEM text with a certificate and its key") from None
    try:
        private = load_pem_private_key(secret.raw, password.raw or None)
    except TypeError:
        state = "no password is needed for its key" if password else "its key is locked and no password is given"
        raise ValueError(f"{key}: {state}; see `password`") from None
    except (ValueError, UnsupportedAlgorithm):
        if b"PRIVATE KEY" not in secret.raw:
            raise ValueError(f"{key}: found a certificate without its private key, both are wanted") from None
        raise ValueError(f"{key}: its private key cannot be read, or `password` does not open it") from None
    return _identity(key, private, certificates)


def load_p12(key: str, secret: Secret, password: Secret) -> Identity:
    """A certificate and its private key from PKCS #12, as Keychain exports them. ValueErrors begin with `key`."""
    try:
        private, certificate, others = load_key_and_certificates(secret.raw, password.raw or None)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{key}: is no PKCS #12 file, or `password` does not open it") from None
    if private is None or certificate is None:
        missing = "private key" if certificate is not None else "certificate"
        raise ValueError(f"{key}: found no {missing}; export the certificate together with its key") from None
    return _identity(key, private, [certificate, *others])


def _identity(key: str, private: object, certificates: list[x509.Certificate]) -> Identity:
    if not isinstance(private, PrivateKey):
        raise ValueError(f"{key}: found a private key of the kind {type(private).__name__}, wanted is RSA or EC")
    own = next((found for found in certificates if _public(found) == _public(private)), None)
    if own is None:
        raise ValueError(f"{key}: the private key does not belong to the certificate")
    if own.not_valid_after_utc <= datetime.fromtimestamp(time.time(), UTC):
        raise ValueError(f"{key}: the certificate has expired on {own.not_valid_after_utc:%Y-%m-%d}")
    chain = [own, *(found for found in certificates if found != own)]
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem += b"".join(found.public_bytes(Encoding.PEM) for found in chain)
    names = own.subject.get_attributes_for_oid(NameOID.USER_ID)
    return Identity(pem, str(names[0].value) if names else "", own.not_valid_after_utc)


def _public(holder: PrivateKey | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
