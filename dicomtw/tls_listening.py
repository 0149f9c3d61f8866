"""TLS listeners for Twisted: the endpoint ``dicomtls:``, and what ``--tls`` makes of a port.

A twistd plugin makes the prefix known to every program that uses Twisted's endpoint strings::

    dicomtls:2762:cert=/etc/dicom/cert.pem:key=/etc/dicom/key.pem:ca=/etc/dicom/ca.pem:profile=8996
"""

# ruff: noqa: N802, N803 (Twisted's hooks keep Twisted's case)

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from zope.interface import implementer

from dicomtw.security.profiles import PROFILES
from dicomtw.security.renewal import RenewedContext, contexts
from dicomtw.security.tls import VERIFY, TLSError, TLSFiles, not_honoured, server_context
from dicomtw.tls_transport import TLSFactory

_log = Logger()

#: Connections that the kernel keeps for us until they are accepted.
BACKLOG = 512

#: Parameters of the endpoint string that name files.
_PATHS = ("cert", "key", "chain", "ca", "crl")


@implementer(IStreamServerEndpoint)
@attrs.frozen
class TLSEndpoint:
    """Listens where another endpoint does, with TLS of `context` on each connection."""

    endpoint: IStreamServerEndpoint
    context: RenewedContext
    clock: IReactorTime

    def listen(
        self,
        protocolFactory: IProtocolFactory,
        before: Callable[[IProtocolFactory], IProtocolFactory] = lambda factory: factory,
    ) -> Deferred[IListeningPort]:
        """`before` is put around the factory of TLS connections: it sees what is on the wire."""
        for line in self.described():
            _log.info("{line}", line=line)
        for line in self.warnings():
            _log.warn("{line}", line=line)
        creator = _ConnectionCreator(self.context)
        over_tls = TLSFactory(creator, False, protocolFactory, self.clock)
        return self.endpoint.listen(before(over_tls))

    def described(self) -> list[str]:
        """What it is, in words."""
        files = self.context.files
        profile = PROFILES[files.profile]
        revoked = ", without those that a CRL revokes" if files.crl is not None else ""
        title = f"TLS profile {profile.title} (PS3.15 {profile.section})"
        own = self.context.described if files.paths() else "a TLS certificate is made at the first start"
        return [f"{title}, client certificates: {files.verification}{revoked}", own]

    def warnings(self) -> list[str]:
        """What there is to be said against it, and what of its profile cannot be had here."""
        name = self.context.files.profile
        against = (PROFILES[name].warning, *not_honoured(name))
        return [f"TLS profile {name}: {words}" for words in against if words] + self.context.remarks()


@implementer(IOpenSSLServerConnectionCreator)
@attrs.frozen
class _ConnectionCreator:
    """Makes the TLS connections of one listener, each of the context that its files make at the time."""

    context: RenewedContext

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self.context.current(), None)


def endpoint(
    reactor: Any, files: TLSFiles, port: int, interface: str = "", backlog: int = BACKLOG
) -> TLSEndpoint:
    """TLS on a port. Blocks for the files; raises `TLSError` for those that are no good."""
    tcp = TCP4ServerEndpoint(reactor, port, backlog, interface)
    return TLSEndpoint(tcp, RenewedContext(files, server_context, told), reactor)


def parse(reactor: Any, *arguments: str, **options: str) -> TLSEndpoint:
    """The endpoint of a string, split at its colons; raises ValueError, in one line."""
    names = ("port", "interface", "backlog", "verify", "profile", *_PATHS)
    unknown = [name for name in options if name not in names]
    if unknown or len(arguments) > 1 or (arguments and "port" in options):
        what = unknown[0] if unknown else arguments[-1]
        raise ValueError(f"dicomtls: takes a port, and as NAME=VALUE {', '.join(names)}; not {what!r}")
    if not arguments and "port" not in options:
        raise ValueError("dicomtls: needs a port, as in dicomtls:2762:cert=cert.pem:key=key.pem")
    port = _number("port", arguments[0] if arguments else options["port"], 0, 65535)
    backlog = _number("backlog", options.get("backlog", str(BACKLOG)), 1, 65535)
    interface = options.get("interface", "")
    if interface:
        try:
            interface = str(ipaddress.ip_address(interface))
        except ValueError:
            raise ValueError(f"interface takes an IP address, not {interface!r}") from None
    for name, choices in (("verify", VERIFY), ("profile", tuple(PROFILES))):
        if options.get(name, choices[0]) not in choices:
            raise ValueError(f"{name} takes one of {', '.join(choices)}, not {options[name]!r}")
    empty = next((name for name in _PATHS if options.get(name, "file") == ""), None)
    if empty is not None:
        raise ValueError(f"{empty} takes a path")
    if "cert" not in options:
        raise ValueError("dicomtls: needs a certificate: cert=PATH, with key=PATH if that is another file")
    given: dict[str, Any] = {name: Path(options[name]) for name in _PATHS if name in options}
    given |= {name: options[name] for name in ("verify", "profile") if name in options}
    files = TLSFiles(**given)
    try:
        for fault in files.contradictions():
            raise TLSError(fault)
        return endpoint(reactor, files, port, interface, backlog)
    except TLSError as fault:
        raise ValueError(str(fault).replace("--tls-", "")) from None


def _number(name: str, text: str, lowest: int, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and lowest <= int(text) <= highest):
        raise ValueError(f"{name} takes a number from {lowest} to {highest}, not {text!r}")
    return int(text)


def said_of(listener: object) -> list[str]:
    """What TLS an endpoint is, for ``--check``; nothing of one without."""
    while not isinstance(listener, TLSEndpoint):
        listener = getattr(listener, "endpoint", None)
        if listener is None:
            return []
    return [*listener.described(), *(f"warning: {line}" for line in listener.warnings())]


# -- new files


def told(line: str, is_fault: bool) -> None:
    """For a `RenewedContext`: log what became of its files."""
    if is_fault:
        _log.warn("{line}", line=line)
    else:
        _log.info("{line}", line=line)


def read_again() -> None:
    """Read the files of all TLS in this process again, whether they seem to have changed or not."""
    found = contexts()
    for context in found:
        context.read_again()
    if not found:
        _log.info("there are no certificates to be read again")


def tell_unreadable() -> None:
    """Log which files of TLS in this process can no longer be read; to be called when root was dropped."""
    for context in contexts():
        context.tell_unreadable()
