"""Whom a server sends to: the configured remotes, and TLS with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from dicomtw.client import TLS, UserIdentity, associate, certified_name, tls_with, user_of
from dicomtw.config import Server
from dicomtw.errors import NotConnected
from dicomtw.feed import Disk
from dicomtw.limits import Limits
from dicomtw.operations import or_cancelled
from dicomtw.requestor import RequestedAssociation
from dicomtw.security.access import sop_class_refusal
from dicomtw.security.kept import Kept, unreadable
from dicomtw.security.passwords import passcode_in
from dicomtw.security.remote import Remote
from dicomtw.security.tls import TLSError


def limits_of(server: Server) -> Limits:
    """The limits of a server's associations."""
    return Limits(
        artim_timeout=server.artim_timeout,
        dimse_timeout=server.dimse_timeout,
        idle_timeout=server.idle_timeout,
        max_associations=server.max_associations,
        max_associations_per_host=server.max_associations_per_host,
        max_connections=server.max_connections,
        max_connections_per_host=server.max_connections_per_host,
        # So much is passed over of what is refused, for an answer; then it is enough.
        max_data_set=2 * server.max_object_size << 20,
    )


def tls_of(remote: Remote) -> TLS | None:
    """TLS with a remote, None where it wants none.

    Without certificates or fingerprints to verify it with it is encryption alone, as PMOD has it; the start
    says so.
    """
    return tls_with(remote, verify=remote.tls_ca is not None)


def fault_of(remote: Remote, tls: TLS | None, passcode: Callable[[Path], bytes] = passcode_in) -> str:
    """Why a remote's files are of no use, in one line; empty if they are. Blocks: they are read."""
    try:
        user_of(remote, passcode)
        if tls is not None and remote.host:
            certified_name(tls, remote.host)
        if tls is not None:
            tls.context  # noqa: B018
    except TLSError as error:
        return f"remote {remote.aet}: {str(error).removeprefix('--')}"
    except ValueError as error:
        return f"remote {remote.aet}: {error}"
    return ""


class RemoteDestinations:
    """The configured remotes, as destinations of what `server` sends. `disk` is its store's."""

    def __init__(self, server: Server, remotes: Iterable[Remote], reactor: Any, disk: Disk) -> None:
        self._server = server
        self._known = [(remote, tls_of(remote)) for remote in remotes]
        self._destinations = {
            remote.aet: (remote, tls) for remote, tls in self._known if remote.host and remote.port
        }
        files = [remote.password_file for remote, _ in self._known]
        #: Of our user to each remote: root may have read it, who cannot any longer.
        self._passcodes = {path: Kept(path, passcode_in) for path in files if path is not None}
        self._reactor = reactor
        self._disk = disk

    def __contains__(self, ae_title: object) -> bool:
        return ae_title in self._destinations

    def faults(self) -> list[str]:
        """What of their files is not as it should be, a line each. Blocks: certificates are read once."""
        found = (fault_of(remote, tls, self._passcode) for remote, tls in self._known)
        return [fault for fault in found if fault]

    def unreadable(self) -> list[str]:
        """Which files of passcodes cannot be read by this process, a line each. Blocks."""
        found = filter(None, map(unreadable, self._passcodes))
        return [f"password-file {why}: a new one is used after a restart only" for why in found]

    def _passcode(self, path: Path) -> bytes:
        return self._passcodes[path].current()

    async def _user(self, remote: Remote) -> UserIdentity | None:
        """Who our user is to a remote. Raises `ValueError`."""
        if remote.password_file is None:
            return user_of(remote)
        return await self._disk.call_aside(lambda: user_of(remote, self._passcode))

    def associate(
        self, ae_title: str, contexts: Sequence[tuple[str, tuple[str, ...]]]
    ) -> Deferred[RequestedAssociation]:
        """An association with a remote, in the name of the server. Fails with `AssociationLost`."""
        remote, tls = self._destinations[ae_title]

        async def associated() -> RequestedAssociation:
            allowed = [context for context in contexts if not sop_class_refusal(remote, context[0])]
            if not allowed:
                raise NotConnected("none of the SOP classes is allowed to it")
            try:
                associating = associate(
                    remote,
                    contexts=allowed,
                    calling=self._server.aet,
                    tls=tls,
                    limits=limits_of(self._server),
                    user_identity=await self._user(remote),
                    disk=self._disk,
                    reactor=self._reactor,
                    implementation_version_name=not self._server.no_implementation_version_name,
                )
            except ValueError as fault:  # of a host name, above all
                raise NotConnected(str(fault)) from None
            return (await associating).association

        return or_cancelled(Deferred.fromCoroutine(associated()))
