"""DICOM as an SCU: `associate` with a peer, then echo, store, find, move, get and the N- services.

async with associate("PACS@192.0.2.7:104", calling="RESEARCH", contexts=storage_contexts(paths)) as scu:
    for path in paths:
        await scu.c_store(path)

Everything that is awaited here is a Deferred too, for those who write callbacks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, clientFromString
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomtw import uids
from dicomtw.errors import AssociationLost, NotAccepted, NotConnected, OperationFailed, Rejected
from dicomtw.feed import Disk
from dicomtw.limits import Limits
from dicomtw.protocol import AssociationProtocol
from dicomtw.requestor import Proposal, RequestedAssociation
from dicomtw.scu import SCU
from dicomtw.security.certificate import sha256_from
from dicomtw.security.identity import UserIdentity as UserIdentity  # for those who associate
from dicomtw.security.passwords import passcode_in
from dicomtw.security.remote import Remote, parse_peer
from dicomtw.security.renewal import RenewedContext
from dicomtw.security.tls import Contents, TLSError, TLSFiles, client_context
from dicomtw.security.verification import pinned, verification
from dicomtw.services import FALLBACK, ServiceClass, ServiceRegistry
from dicomtw.settings import ConfigError
from dicomtw.storing import storage_contexts as storage_contexts  # for those who associate
from dicomtw.tls_listening import told
from dicomtw.tls_transport import TLSClientEndpoint
from dicomtw.transports import tls_fault, tls_of

#: A presentation context to propose: a SOP class, with the transfer syntaxes or without for the uncompressed.
Context = str | tuple[str, Sequence[str]]


def _fingerprints(written: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(sha256_from, written))


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


@attrs.frozen(kw_only=True, slots=False)
class TLS:
    """TLS to a peer: who certifies it, and our own certificate for those who ask; all files are PEM.

    Without `ca` the roots of this machine certify it. `verify` False leaves only encryption, as PMOD has it.
    `pins` are SHA-256 fingerprints of certificates, in hex: the peer's is to be one of them, whoever has
    issued it, and for whatever host. One object can be used for any number of associations; its files are
    read again when they have changed.
    """

    ca: Path | None = attrs.field(default=None, converter=_path)
    cert: Path | None = attrs.field(default=None, converter=_path)
    key: Path | None = attrs.field(default=None, converter=_path)
    #: Certificate revocation lists of those in `ca`.
    crl: Path | None = attrs.field(default=None, converter=_path)
    verify: bool = True
    #: The name in its certificate, if it is not that of the host we connect to.
    host: str = ""
    profile: str = "8996"
    pins: Collection[str] = attrs.field(default=(), converter=_fingerprints)

    @property
    def context(self) -> SSL.Context:
        """What connections are made of. Made of the files when it is first asked for: that blocks, and raises
        `security.tls.TLSError`. When they change it is made anew, or if they are no good then, stays.
        """
        return self._renewed.current()

    @functools.cached_property
    def _renewed(self) -> RenewedContext:
        files = TLSFiles(cert=self.cert, key=self.key, ca=self.ca, crl=self.crl, profile=self.profile)
        return RenewedContext(files, self._make, told)

    def _make(self, files: TLSFiles, contents: Contents) -> SSL.Context:
        made = client_context(files, contents)
        if self.verify and self.ca is None and not self.pins:
            made.set_default_verify_paths()
        return made

    def connection(self, host: str, failed: Callable[[str], None]) -> SSL.Connection:
        """A connection to `host`, which `certified_name` has found; `failed` is told what is wrong with its
        certificate.
        """
        connection = SSL.Connection(self.context, None)
        if host and not isIPAddress(host) and not isIPv6Address(host):
            connection.set_tlsext_host_name(host.encode("idna"))
        if self.pins:
            connection.set_verify(SSL.VERIFY_PEER, pinned(self.pins, failed))
        elif self.verify:
            connection.set_verify(SSL.VERIFY_PEER, verification(host, failed))
        return connection


def associate(
    peer: str | Remote | IStreamClientEndpoint,
    *,
    contexts: Iterable[Context] = (uids.VERIFICATION,),
    called: str = "",
    calling: str = "DICOMTW",
    services: Iterable[ServiceClass] = (),
    operations_window: int = 1,
    extended_negotiation: Mapping[str, bytes] | None = None,
    implementation_version_name: bool = True,
    user_identity: UserIdentity | None = None,
    maximum_length: int = 262144,
    tls: TLS | None = None,
    limits: Limits | None = None,
    disk: Disk | None = None,
    retries: int | None = None,
    retry_delay: float | None = None,
    reactor: Any = None,
) -> Associating:
    """Request an association (PS3.8 7.1): await it for its `SCU`; ``async with`` releases it, too.

    `peer` is ``AET@host:port``, ``host:port``, a client endpoint string of Twisted's, an endpoint, or a
    `security.remote.Remote`. `services` is what we perform for the peer: a storage service gets what C-GET
    asks for. Where a remote, or a peer with ``,tls``, wants TLS, it is verified, unless `tls` says otherwise.
    `user_identity` says who our user is, by default who the remote's settings say; what the peer answers, if
    it is asked to, is the association's `user_identity_response`. The files that a remote's settings name are
    read here each time: who associates often gives `tls` and `user_identity`. Whether a passcode goes over a
    connection without TLS is for the caller to say.
    `disk` has the threads for what is read and stored; by default they are the reactor's.
    A connection that cannot be opened and a transient rejection are tried again `retries` times, after
    `retry_delay` seconds each; by default that is up to the remote, or never, and 5 seconds.
    Raises `NotConnected`, also for files that TLS cannot be had with, `Rejected` and `AssociationLost`;
    `ValueError`, at once, for what cannot be proposed.
    """
    if reactor is None:
        from twisted.internet import reactor
    if isinstance(peer, str):
        peer = _peer(peer, reactor)
    if isinstance(peer, Remote):
        if not (peer.host and peer.port):
            raise ValueError(f"{peer.aet}: it is not known where it listens")
        called = called or peer.aet
        tls = tls or tls_with(peer)
        retries = peer.retries if retries is None else retries
        retry_delay = peer.retry_delay if retry_delay is None else retry_delay
        implementation_version_name &= not peer.no_implementation_version_name
        user_identity = user_identity or user_of(peer)
    performed = tuple(services)
    registry = ServiceRegistry(performed)
    proposed = tuple(
        (context, FALLBACK) if isinstance(context, str) else (context[0], tuple(context[1]))
        for context in contexts
    )
    proposal = Proposal(
        calling_ae_title=calling,
        called_ae_title=called or "ANY-SCP",
        contexts=proposed,
        maximum_length=maximum_length,
        operations_window=operations_window,
        scp_roles=frozenset(uid for uid, _ in proposed if registry.service(uid) is not None),
        extended_negotiation=dict(extended_negotiation or {}),
        implementation_version_name=uids.IMPLEMENTATION_VERSION_NAME if implementation_version_name else None,
        user_identity=None if user_identity is None else user_identity.item(),
    )
    proposal.rq()  # raises for what cannot be proposed, here and not later
    host = "" if tls is None else certified_name(tls, peer.host if isinstance(peer, Remote) else "")
    if disk is None:
        disk = Disk(lambda call: deferToThreadPool(reactor, reactor.getThreadPool(), call))
    connect = _Connect(peer, tls, host, proposal, registry, disk, limits or Limits(), reactor)
    delay = 5.0 if retry_delay is None else retry_delay
    return Associating(Deferred.fromCoroutine(_associate(connect, retries or 0, delay)))


class Associating:
    """An association that is being requested."""

    def __init__(self, established: Deferred[SCU]) -> None:
        self._established = established
        self._scu: SCU | None = None

    def __await__(self) -> Generator[Any, None, SCU]:
        return self._established.__await__()

    def asDeferred(self) -> Deferred[SCU]:  # noqa: N802 - as Twisted names it
        """Fires with the association's `SCU`."""
        return self._established

    async def __aenter__(self) -> SCU:
        self._scu = await self._established
        return self._scu

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._scu is not None
        # What the peer has answered or not accepted is no reason to end in disorder.
        if kind is None or issubclass(kind, OperationFailed | NotAccepted):
            await self._scu.release()
        else:
            self._scu.abort()


async def _associate(connect: _Connect, retries: int, delay: float) -> SCU:
    connect.load()
    while True:
        try:
            return await connect.once()
        except AssociationLost as fault:
            again = isinstance(fault, NotConnected) or (isinstance(fault, Rejected) and fault.transient)
            if not again or retries <= 0:
                raise
        retries -= 1
        await deferLater(connect.reactor, delay)


@attrs.frozen
class _Connect:
    """How to get to a peer, and what to propose there."""

    peer: Remote | IStreamClientEndpoint
    tls: TLS | None
    #: Whose its certificate is to be.
    host: str
    proposal: Proposal
    registry: ServiceRegistry
    disk: Disk
    limits: Limits
    reactor: Any

    def load(self) -> None:
        """Read what TLS is made of; what is wrong there is no better at the next try."""
        try:
            if self.tls is not None:
                self.tls.context  # noqa: B018
        except TLSError as fault:
            why = str(fault).removeprefix("--")  # an option's name where there are options
            raise NotConnected(f"cannot connect to {_name(self.peer)}: {why}") from None

    async def once(self) -> SCU:
        """Connect and associate."""
        endpoint = self.peer
        creator = None
        if isinstance(endpoint, Remote):
            host, port = endpoint.host, endpoint.port
            endpoint = HostnameEndpoint(self.reactor, host, port, timeout=self.limits.artim_timeout)
        if self.tls is not None:
            creator = _ConnectionCreator(self.tls, self.host)
            endpoint = TLSClientEndpoint(creator, endpoint, self.reactor)
        protocol = RequestorProtocol(self.proposal, self.registry, self.disk, self.limits, self.reactor)
        if creator is not None:
            creator.failed = protocol.tls_failed
            protocol.in_handshake = True
        try:
            await endpoint.connect(_One(protocol))
        except (CancelledError, ConnectingCancelledError):
            raise CancelledError from None
        except Exception as error:
            raise NotConnected(f"cannot connect to {_name(self.peer)}: {_words(error)}") from None
        try:
            await protocol.association.established
        except CancelledError:
            protocol.association.abort("the request was cancelled")
            raise
        return SCU(protocol.association)


class _One(Factory):
    """Makes the protocol of one connection."""

    noisy = False

    def __init__(self, protocol: RequestorProtocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: object) -> RequestorProtocol:  # noqa: N802
        return self._protocol


@implementer(IHandshakeListener)
class RequestorProtocol(AssociationProtocol):
    """One connection that we have opened, and the association requested on it."""

    association: RequestedAssociation
    #: TLS is to come about, and has not yet.
    in_handshake = False

    def __init__(
        self, proposal: Proposal, registry: ServiceRegistry, disk: Disk, limits: Limits, clock: Any
    ) -> None:
        super().__init__(clock, limits)
        association = RequestedAssociation(proposal, self, registry, disk)
        self._carry(association, is_requestor=True, maximum_length=proposal.maximum_length)
        self._tls_fault = ""

    def connectionMade(self) -> None:  # noqa: N802
        super().connectionMade()
        self.association.request()
        self.watch.connected()

    def tls_failed(self, why: str) -> None:
        """Our side of TLS does not accept the peer."""
        self._tls_fault = self._tls_fault or why

    def handshakeCompleted(self) -> None:  # noqa: N802
        self.in_handshake = False

    def associated(self) -> None:
        self._tls = tls_of(self.transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # noqa: N802
        fault = self._tls_fault or tls_fault(reason)
        if self.in_handshake and not (fault or self.association.ended):
            fault = "TLS failed: closed in the handshake (does the peer speak TLS?)"
        if fault:
            self.association.ended = self.association.ended or fault
            self.association.not_connected(fault)
        super().connectionLost(reason)


@implementer(IOpenSSLClientConnectionCreator)
class _ConnectionCreator:
    """Makes a TLS connection to one host, and verifies whose certificate it shows."""

    def __init__(self, tls: TLS, host: str) -> None:
        self._tls = tls
        self._host = host
        self.failed: Callable[[str], None] = lambda _: None

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:  # noqa: N802, N803
        return self._tls.connection(self._host, lambda why: self.failed(why))


def _peer(text: str, reactor: Any) -> Remote | IStreamClientEndpoint:
    """``[AET@]host:port``, or an endpoint string; raises `ValueError`."""
    try:
        remote = parse_peer(text)
    except ConfigError as fault:
        raise ValueError(f"{text!r}: a peer {fault}") from None
    if remote is not None:
        return remote
    endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
    return endpoint


def certified_name(tls: TLS, host: str) -> str:
    """Whose the certificate of a peer at `host` is to be; raises `ValueError`."""
    host = (tls.host or host).rstrip(".")
    verified = tls.verify and not tls.pins
    if not host and verified:
        raise ValueError("TLS to an endpoint needs the name of the host, whose certificate is verified")
    try:
        if host:
            host.encode("idna")
        if verified:
            verification(host, lambda _: None)
    except ValueError:
        raise ValueError(f"{host!r} is no name that a certificate could be for") from None
    return host


def user_of(remote: Remote, passcode: Callable[[Path], bytes] = passcode_in) -> UserIdentity | None:
    """Who our user is to a remote as its settings say; None if they do not. The file of the passcode is read.

    Blocks, where there is one. Raises `ValueError`.
    """
    if not remote.user:
        return None
    if remote.password_file is None:
        return UserIdentity.username(remote.user)
    try:
        return UserIdentity.username_and_passcode(remote.user, passcode(remote.password_file))
    except OSError as error:
        raise ValueError(f"cannot read {remote.password_file}: {error.strerror}") from None


def tls_with(remote: Remote, *, verify: bool = True) -> TLS | None:
    """TLS with a remote as its settings say, None where it wants none."""
    if not remote.tls:
        return None
    return TLS(
        ca=remote.tls_ca,
        cert=remote.tls_cert,
        key=remote.tls_key,
        crl=remote.tls_crl,
        verify=verify,
        pins=remote.tls_sha256,
    )


def _name(peer: Remote | IStreamClientEndpoint) -> str:
    return f"{peer.host}:{peer.port}" if isinstance(peer, Remote) else "the endpoint"


def _words(error: Exception) -> str:
    """Why a connection could not be opened; Twisted's exceptions say it in their docstrings."""
    return str(error).rstrip(".") or type(error).__name__
