"""What is under a transport of Twisted's, be it wrapped (TLS, PROXY protocol) or not: its socket, its TLS."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure

from dicomtw.security.certificate import PeerCertificate, peer_certificate_of
from dicomtw.security.verification import verification_fault

#: What OpenSSL says when the peer did not speak TLS, or not with us, and what that means.
_TLS_FAULTS = {
    "wrong version number": "the peer does not speak TLS",
    "packet length too long": "the peer does not speak TLS",
    "http request": "the peer speaks HTTP",
    "unsupported protocol": "no TLS version in common",
    "no shared cipher": "no cipher suite in common",
    "peer did not return a certificate": "the peer has no certificate and one is required",
    "alert unknown ca": "the peer does not know who certifies us",
    "alert certificate expired": "the peer holds our certificate, or an issuer's, for expired",
    "alert certificate revoked": "the peer holds our certificate for revoked",
    "alert bad certificate": "the peer does not accept our certificate",
    "alert certificate unknown": "the peer does not accept our certificate",
    "alert certificate required": "the peer wants a certificate of ours",
    "alert internal error": "the peer does not accept our certificate, for its host name perhaps",
    "alert protocol version": "no TLS version in common",
    "alert handshake failure": "the peer has no cipher suite, or no key, in common with us",
}


#: Bytes that are read at a time, if so many are there. Each read costs a turn of the reactor, and what it
#: brings of a data set is one write: four times of Twisted's 64 KiB is a sixth more objects a second.
READ: Final = 1 << 18


#: Parts that the system gathers at most: IOV_MAX of Linux.
_GATHERED: Final = 1024


def _layers(transport: Any) -> Iterator[Any]:
    while transport is not None:
        yield transport
        transport = getattr(transport, "transport", None)


def _handles(transport: Any) -> Iterator[Any]:
    for layer in _layers(transport):
        try:
            yield layer.getHandle()
        except AttributeError:  # there is none; or, of TCP that is closed, none any more
            pass


def read_much(transport: Any) -> None:
    """Have a connection read more at a time than Twisted's do."""
    for layer in _layers(transport):
        if hasattr(layer, "bufferSize"):
            layer.bufferSize = READ


def writer_of(transport: Any) -> Callable[[bytes], None]:
    """How to write to a connection: at once, where nothing waits to be sent before.

    Twisted's transports leave it to the next turn of the reactor. For a response, which nearly always fits
    into what the system buffers, that is three system calls and a quarter of the time of a C-ECHO.
    """
    if not isinstance(transport, Connection):
        return lambda data: transport.write(data)  # TLS, which makes records of it; or of a test

    def write_now(data: bytes) -> None:
        if _is_free(transport):
            sent = transport.writeSomeData(data)
            if sent == len(data):
                return
            if isinstance(sent, int):  # or it is lost, which the next turn finds out
                data = data[sent:]
        transport.write(data)

    return write_now


def _is_free(transport: Any) -> bool:
    """Whether a connection is open, and nothing waits to be sent; Twisted has no public word for it."""
    waits = transport.dataBuffer or transport._tempDataBuffer
    return transport.connected and not transport._writeDisconnected and not waits


def parts_writer_of(transport: Any) -> Callable[[list[bytes | memoryview]], None]:
    """The same for what is in many places, as a data set and the headers of its PDUs are: the system gathers
    them, and no byte is copied on the way to it.
    """
    write = writer_of(transport)
    if not isinstance(transport, Connection):
        return lambda parts: write(b"".join(parts))

    def write_now(parts: list[bytes | memoryview]) -> None:
        if not _is_free(transport) or len(parts) > _GATHERED:
            write(b"".join(parts))
            return
        try:
            sent = transport.socket.sendmsg(parts)
        except OSError:  # it takes nothing now, or is lost, which the next turn finds out
            sent = 0
        rest = []
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
            else:
                rest.append(memoryview(part)[sent:])
                sent = 0
        if rest:
            transport.write(b"".join(rest))

    return write_now


def tcp_socket_of(transport: Any) -> socket.socket | None:
    """The socket of a TCP connection; None where there is none."""
    found = next((one for one in _handles(transport) if isinstance(one, socket.socket)), None)
    return None if found is None or found.family == socket.AF_UNIX else found


def acknowledge_now(connection: socket.socket) -> None:
    """Have the kernel acknowledge at once what came in.

    Senders that write a PDU in two parts with Nagle's algorithm on, as DCMTK does, otherwise wait 40 ms for
    our delayed acknowledgement, for each object. The option does not stick, so it is set after each read.
    """
    try:
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
    except OSError:
        pass  # closed meanwhile


_TCP_QUICKACK: int = getattr(socket, "TCP_QUICKACK", 0)  # Linux alone has it


def tls_of(transport: Any) -> str:
    """TLS version and cipher suite of a connection, wrapped or not, and who its peer is by its certificate,
    if it showed one; empty if it is plain.
    """
    connection = _tls_connection(transport)
    if connection is None:
        return ""
    said = f"{connection.get_protocol_version_name()} {connection.get_cipher_name()}"
    try:
        certificate = _certificate(connection)
    except ValueError:
        return f"{said} with a certificate that cannot be read"
    if certificate is None:
        return said
    subject = repr(certificate.subject)  # repr: it may hold anything
    if len(subject) > 100:
        subject = subject[:97] + "..."
    return f"{said} with {subject} (SHA-256 {certificate.sha256[:16]})"


def has_tls(transport: Any) -> bool:
    """Whether a connection, wrapped or not, has TLS."""
    return _tls_connection(transport) is not None


def in_handshake(transport: Any) -> bool:
    """Whether TLS on a connection, wrapped or not, has not come about."""
    connection = _tls_connection(transport)
    return connection is not None and connection.get_peer_finished() is None


def certificate_of(transport: Any) -> PeerCertificate | None:
    """The certificate that the peer of a connection, wrapped or not, has shown and TLS has accepted.

    None if it has shown none, or one that cannot be read, and where there is no TLS.
    """
    connection = _tls_connection(transport)
    try:
        return None if connection is None else _certificate(connection)
    except ValueError:
        return None


def verifies(transport: Any) -> bool:
    """Whether TLS on a connection takes no certificate of the peer but those of who certifies our peers."""
    connection = _tls_connection(transport)
    return connection is not None and bool(connection.get_context().get_verify_mode() & SSL.VERIFY_PEER)


def _tls_connection(transport: Any) -> SSL.Connection | None:
    return next((one for one in _handles(transport) if isinstance(one, SSL.Connection)), None)


def _certificate(connection: SSL.Connection) -> PeerCertificate | None:
    """Raises ValueError for one that cannot be read."""
    certificate = connection.get_peer_certificate(as_cryptography=True)
    return None if certificate is None else peer_certificate_of(certificate)


def tls_fault(reason: Failure, transport: Any = None) -> str:
    """Why a TLS connection failed, in words; empty if that is not what `reason` is about."""
    error = reason.value
    if not isinstance(error, SSL.Error):
        return ""
    said = "; ".join(str(entry[-1]) for entry in (error.args[0] if error.args else ()) if entry)
    connection = _tls_connection(transport)
    hint = "" if connection is None else verification_fault(connection)
    hint = hint or next((meaning for phrase, meaning in _TLS_FAULTS.items() if phrase in said), "")
    return f"TLS failed: {said or 'closed in the handshake'}" + (f" ({hint})" if hint else "")
