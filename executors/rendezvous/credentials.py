"""Who may speak at a rendezvous: a certificate authority per cluster, and a short-lived credential per peer.

Everything is X.509 with EC P-256 keys. What a certificate allows stands in its subjectAltName: `rdv:name:NAME` for
each name that the peer may register, `rdv:role:ROLE` for what it is. A relay's certificate has the role `relay` and a
DNS name that belongs to its authority alone, by which every link checks that it speaks to a relay of this cluster.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from executors.rendezvous.errors import InvalidCredential
from executors.rendezvous.protocol.names import (
    CLIENT,
    CONTROLLER,
    ROLES,
    WORKER,
    Identity,
    check_name,
)

NAME_PREFIX = "rdv:name:"
ROLE_PREFIX = "rdv:role:"
RELAY_ROLE = "relay"
CLOCK_SKEW = timedelta(days=1)
"""How far back a clock may be set, here or elsewhere, and certificates still hold."""
AUTHORITY_LIFETIME = timedelta(days=3650)
RELAY_LIFETIME = timedelta(days=365)
LIFETIMES = {
    WORKER: timedelta(minutes=20),
    CLIENT: timedelta(days=2),
    CONTROLLER: timedelta(days=30),
}
CERTIFICATE_FILE = "authority.pem"
KEY_FILE = "authority.key"


@dataclass(frozen=True, slots=True)
class Credential:
    """What one peer needs to register: its certificate, its key, and the authority that it trusts (all PEM)."""

    name: str
    certificate: str = field(repr=False)
    key: str = field(repr=False)
    authority: str = field(repr=False)
    role: str = WORKER
    names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The credential as JSON can carry it, about 2 kB; it holds a private key."""
        return {
            "name": self.name,
            "certificate": self.certificate,
            "key": self.key,
            "authority": self.authority,
            "role": self.role,
            "names": list(self.names),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; raises InvalidCredential."""
        try:
            return cls(
                name=check_name(value["name"]),
                certificate=str(value["certificate"]),
                key=str(value["key"]),
                authority=str(value["authority"]),
                role=ROLES[ROLES.index(value.get("role", WORKER))],
                names=tuple(value.get("names") or (value["name"],)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidCredential(f"not a credential: {error!r}") from error

    @property
    def expires(self) -> datetime:
        """When the relay begins to refuse it (UTC)."""
        return x509.load_pem_x509_certificate(self.certificate.encode()).not_valid_after_utc


class Authority:
    """A cluster's certificate authority; its key stays in this object unless `save` is called."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        self.certificate = _pem(certificate)

    @classmethod
    def create(cls) -> Self:
        """A new authority with a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rendezvous authority")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The authority saved in `folder`; raises InvalidCredential."""
        folder = Path(folder)
        try:
            certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
            key = serialization.load_pem_private_key((folder / KEY_FILE).read_bytes(), None)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InvalidCredential(f"{folder}: no authority can be read: {why}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or (
            key.public_key() != certificate.public_key()
        ):
            raise InvalidCredential(f"{folder}: {KEY_FILE} is not the key of {CERTIFICATE_FILE}")
        return cls(certificate, key)

    def save(self, folder: str | Path) -> None:
        """Write certificate and key to `folder` (created with mode 0700; the key has mode 0600)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(folder / KEY_FILE, _private_pem(self._key))
        (folder / CERTIFICATE_FILE).write_text(self.certificate)

    @property
    def server_name(self) -> str:
        """The DNS name in the certificates of this authority's relays, and of nobody else."""
        return relay_server_name(self.certificate)

    def issue(
        self,
        name: str,
        *,
        names: Sequence[str] = (),
        role: str = WORKER,
        lifetime: timedelta | None = None,
    ) -> Credential:
        """A credential for the peer `name`, which may also register `names`.

        `lifetime` is 20 minutes for a worker, two days for a client, 30 days for a controller unless given.
        Raises InvalidCredential.
        """
        if role not in ROLES:
            raise InvalidCredential(f"{role!r} is no role: use one of {', '.join(ROLES)}")
        allowed = tuple(dict.fromkeys(check_name(each) for each in (name, *names)))
        key = ec.generate_private_key(ec.SECP256R1())
        marks = [x509.UniformResourceIdentifier(NAME_PREFIX + each) for each in allowed]
        marks.append(x509.UniformResourceIdentifier(ROLE_PREFIX + role))
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if role == CONTROLLER:  # a scheduler may listen on tls:// besides
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        certificate = self._sign(name, key.public_key(), marks, usages, lifetime or LIFETIMES[role])
        return Credential(
            name, _pem(certificate), _private_pem(key), self.certificate, role, allowed
        )

    def certify_relay(self, request: str, *, lifetime: timedelta = RELAY_LIFETIME) -> str:
        """The certificate (PEM) of a relay that sent this signing request (PEM); raises InvalidCredential."""
        try:
            csr = x509.load_pem_x509_csr(request.encode())
            public = csr.public_key()
        except ValueError as error:
            raise InvalidCredential(f"not a certificate signing request: {error}") from error
        if not csr.is_signature_valid or not isinstance(public, ec.EllipticCurvePublicKey):
            raise InvalidCredential(
                "a certificate signing request with a false signature or no EC key"
            )
        marks: list[x509.GeneralName] = [
            x509.DNSName(self.server_name),
            x509.UniformResourceIdentifier(ROLE_PREFIX + RELAY_ROLE),
        ]
        return _pem(self._sign("relay", public, marks, [ExtendedKeyUsageOID.SERVER_AUTH], lifetime))

    def _sign(
        self,
        common_name: str,
        public: ec.EllipticCurvePublicKey,
        marks: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        lifetime: timedelta,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
        issuer_key = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW if lifetime > timedelta() else now + 2 * lifetime)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(marks), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )


def make_relay_key() -> tuple[str, str]:
    """(private key, certificate signing request), both PEM: a relay makes its own and shows only the second."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay")])
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    )
    return _private_pem(key), request.public_bytes(serialization.Encoding.PEM).decode()


def relay_server_name(authority: str) -> str:
    """The DNS name that stands for the relays of an authority (PEM); made from its public key."""
    certificate = x509.load_pem_x509_certificate(authority.encode())
    public = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public)
    return f"relay-{digest.finalize().hex()[:32]}.rdv.invalid"


def read_identity(certificate: Mapping[str, Any]) -> Identity:
    """Names and role in a certificate that TLS has verified (as `SSLSocket.getpeercert` gives it)."""
    import ssl

    names, roles = set(), set()
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "URI" and value.startswith(NAME_PREFIX):
            names.add(value.removeprefix(NAME_PREFIX))
        elif kind == "URI" and value.startswith(ROLE_PREFIX):
            roles.add(value.removeprefix(ROLE_PREFIX))
    if not names or len(roles) != 1 or not roles <= set(ROLES):
        raise InvalidCredential("the certificate names no peer or no role of this protocol")
    expires = ssl.cert_time_to_seconds(certificate["notAfter"])
    return Identity(frozenset(names), roles.pop(), expires)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, replacing what was there."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
