"""TLS of relays and links: version 1.2 or later, certificates on both sides, and no host names of the Internet."""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from typing import Any

from executors.rendezvous.credentials import Credential, read_identity
from executors.rendezvous.errors import InvalidCredential
from executors.rendezvous.protocol.names import CLIENT, CONTROLLER


def relay_context(certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """The context of a relay: it asks every client for a certificate of the same authority (all PEM)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # links live long; a ticket would outlive the check of a credential
    _finish(context, certificate, key, authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def link_context(credential: Credential) -> ssl.SSLContext:
    """The context of a link; it wants `server_hostname=relay_server_name(authority)`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _finish(context, credential.certificate, credential.key, credential.authority)
    return context


def listen_context(credential: Credential) -> ssl.SSLContext:
    """The context of a plain tls:// listener of a controller, which talks to controllers and clients: workers come by relays."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _finish(context, credential.certificate, credential.key, credential.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.sslsocket_class = _TrustedSocket
    context.sslobject_class = _TrustedObject
    return context


def close_transport(transport: asyncio.Transport) -> None:
    """Send what there is and TLS's goodbye, and close; at once, without them, where OpenSSL fails at saying it.

    After another connection of the same thread has broken, OpenSSL may take that error for this connection's own, which
    asyncio does not expect of a goodbye (seen with Python 3.14 and OpenSSL 3.6: BrokenPipeError).
    """
    try:
        transport.close()
    except OSError:
        transport.abort()


def _check_role(certificate: Any) -> None:
    """Raise SSLError for whoever has a credential of our authority, but of a worker."""
    try:
        role = read_identity(certificate or {}).role
    except InvalidCredential as error:
        raise ssl.SSLError(str(error)) from error
    if role not in (CLIENT, CONTROLLER):
        raise ssl.SSLError(f"a {role} may not connect here")


class _TrustedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check_role(self.getpeercert())


class _TrustedObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        super().do_handshake()
        _check_role(self.getpeercert())


def _finish(context: ssl.SSLContext, certificate: str, key: str, authority: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_verify_locations(cadata=authority)
        _load_chain(context, certificate + key)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidCredential(f"a certificate or key cannot be used: {error}") from error


def _load_chain(context: ssl.SSLContext, pem: str) -> None:
    """Load a certificate with its key; `ssl` reads them from files only, so one without a name is used."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("rdv-credential", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "w") as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        return
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # mode 0600
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
