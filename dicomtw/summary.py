"""The one log line that each connection leaves: who, from where, what was agreed and done, how it ended."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from dicomtw import uids
from dicomtw.association import Association
from dicomtw.security.certificate import PeerCertificate, peer_certificate_of
from dicomtw.security.identity import user
from dicomtw.security.verification import verification_fault

_log = Logger(namespace="dicomtw.association")

#: How a connection ended on which the peer sent nothing, as the probes of load balancers do.
NOTHING_SAID = "closed by the peer before any association"

#: Names of one kind that the line tells; the JSON fields have them all.
_NAMES = 5

#: Characters of the line; what is cut is in the JSON fields.
LONGEST_LINE = 4000

#: Operations that the line has words for; others are counted by their names.
_TOLD = ("C-STORE", "C-ECHO")

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
    "alert protocol version": "no TLS version in common",
    "alert handshake failure": "the peer has no cipher suite, or no key, in common with us",
}


def log_summary(association: Association, *, peer: str, tls: str, seconds: float, ended: str) -> None:
    """Log the line, with its fields for machines as the event's `association`. Not a word about patients."""
    refused = [
        f"{_name(context.abstract_syntax)} (result {context.result:d}: {context.why})"
        for context in association.refused
    ]
    accepted = sorted({_name(context.abstract_syntax) for context in association.accepted.values()})
    failures = {f"{code:04X}H": count for code, count in sorted(association.failures.items())}
    fields: dict[str, Any] = {
        "calling": association.calling_ae_title,
        "called": association.called_ae_title,
        "peer": peer,
        "tls": tls,
        "user": association.user,
        "accepted": accepted,
        "refused": refused,
        "objects": association.operations["C-STORE"],
        "echoes": association.operations["C-ECHO"],
        "operations": dict(association.operations),
        "failures": failures,
        "bytes": association.data_set_bytes,
        "objects_sent": association.objects_sent,
        "bytes_sent": association.bytes_sent,
        "seconds": round(seconds, 3),
        "odd_lengths": association.provider.odd_lengths,
        "lax_uids": association.lax_uids,
        "unfinished": association.unfinished,
        "ended": ended,
    }
    parts = [_who(fields)]
    if accepted or refused:
        agreed = f"{len(association.accepted)} contexts accepted{_abridged(accepted)}"
        parts.append(f"{agreed}, {len(refused)} refused{_abridged(refused)}")
        done = f"{fields['objects']} objects, {fields['bytes']} bytes, {fields['echoes']} echoes"
        done += "".join(
            f", {count} {name}" for name, count in sorted(association.operations.items()) if name not in _TOLD
        )
        if association.objects_sent:
            done += f", {association.objects_sent} objects sent, {association.bytes_sent} bytes"
        if failures:
            done += ", failed: " + ", ".join(f"{count} x {code}" for code, count in failures.items())
        if association.unfinished:
            done += f", {association.unfinished} dropped unfinished"
        if fields["odd_lengths"]:
            done += ", fragments of odd length"
        if fields["lax_uids"]:
            done += ", UIDs with leading zeros or empty components"
        parts.append(done)
    parts += [f"{seconds:.3f} s", ended]
    orderly = not failures and not association.unfinished and ended in ("released", NOTHING_SAID)
    level = LogLevel.info if orderly else LogLevel.warn
    _log.emit(level, "{summary}", summary=abridged("; ".join(parts)), association=fields)


def abridged(line: str) -> str:
    """As much of a line as the log takes: whatever a peer has put into it."""
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def _name(uid: str) -> str:
    return uids.name_of(uid) if uids.is_valid_uid(uid) else repr(uid[:64])  # a peer's may hold anything


def _who(fields: dict[str, Any]) -> str:
    who = str(fields["peer"])
    if fields["calling"] or fields["called"]:
        who += f" {fields['calling']!r} to {fields['called']!r}"  # repr: a title may hold anything
    who += f" for {user(fields['user'])}" if fields["user"] else ""
    return who + (f" over {fields['tls']}" if fields["tls"] else "")


def _abridged(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f" ({', '.join(names[:_NAMES])}{more})"


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
    while transport is not None:
        try:
            handle = transport.getHandle()
        except AttributeError:  # there is none; or, of TCP that is closed, none any more
            handle = None
        if isinstance(handle, SSL.Connection):
            return handle
        transport = getattr(transport, "transport", None)
    return None


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
