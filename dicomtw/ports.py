"""Where servers listen: endpoints, of the options, and the ports that they open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure

from dicomtw import tls_listening
from dicomtw.config import Server, state_directory
from dicomtw.process import StartError
from dicomtw.proxy import server_endpoint
from dicomtw.security.self_signed import make_self_signed
from dicomtw.security.tls import TLSError, TLSFiles
from dicomtw.words import no_endpoint, why_not

#: The uid and gid that a process will run as; None: it stays who it is.
Owner = tuple[int, int] | None


class Ports:
    """The ports of a process. `failed` is told why one of them is not open, where that shows late."""

    def __init__(self, reactor: Any, failed: Callable[[str], object]) -> None:
        self._reactor = reactor
        self._failed = failed
        self._ports: list[IListeningPort] = []

    def open(self, description: str, endpoint: IStreamServerEndpoint, factory: IProtocolFactory) -> None:
        """Listen; raises `StartError`."""
        faults: list[str] = []
        starting = True

        def failed(failure: Failure) -> None:
            why = why_not(description, failure.value)
            if starting:
                faults.append(why)
            else:
                self._failed(why)

        endpoint.listen(factory).addCallbacks(self._ports.append, failed)
        starting = False
        for why in faults:
            raise StartError(why)

    def take(self, ports: Iterable[IListeningPort]) -> None:
        """Have these instead, which others have opened."""
        self._ports = [*ports]

    def close(self) -> list[Deferred[Any]]:
        """Listen no longer; they fire when it is so."""
        ports, self._ports = self._ports, []
        return [maybeDeferred(port.stopListening) for port in ports]


def endpoints_of(server: Server, reactor: Any, owner: Owner) -> list[tuple[str, IStreamServerEndpoint]]:
    """The endpoints of a server, each with what it is called; `owner` owns what is made for them.

    Raises `StartError`.
    """
    endpoints: list[tuple[str, IStreamServerEndpoint]] = []
    others: list[tuple[str, IStreamServerEndpoint]] = []
    for text in server.listen:
        try:
            others.append((text, server_endpoint(reactor, text)))
        except Exception as error:  # an endpoint's parser is a plugin and may raise anything
            raise StartError(no_endpoint(text, error)) from None
    if server.port is not None:
        where = f"port {server.port}" + (f" of {server.interface}" if server.interface else "")
        if server.tls:
            files = _tls_files(server, owner)
            try:
                tls = tls_listening.endpoint(reactor, files, server.port, server.interface)
            except TLSError as error:
                raise StartError(str(error)) from None
            endpoints.append((where, tls))
        else:
            tcp = TCP4ServerEndpoint(reactor, server.port, tls_listening.BACKLOG, server.interface)
            endpoints.append((where, tcp))
    return endpoints + others


def _tls_files(server: Server, owner: Owner) -> TLSFiles:
    if server.tls_cert is not None:
        return server.tls_files
    try:
        directory = state_directory(server)
        make_store(server, owner)
        cert, key = make_self_signed(directory, owner)
    except OSError as error:
        raise StartError(f"cannot make a certificate in {error.filename}: {error.strerror}") from None
    return attrs.evolve(server.tls_files, cert=cert, key=key)


def make_store(server: Server, owner: Owner) -> None:
    """Make the directory of a server's store, if it is not there, for its `owner`; raises `StartError`."""
    store = Path(os.path.abspath(server.store))
    try:
        for path in reversed([path for path in (store, *store.parents) if not path.exists()]):
            path.mkdir(mode=0o700)
            if owner is not None:
                os.chown(path, *owner, follow_symlinks=False)
    except OSError as error:
        raise StartError(f"cannot make the store {store}: {error.strerror}") from None
