"""What a configuration means, and what is wrong with it, in words for an operator."""

from __future__ import annotations

import errno
import os

from twisted.internet.error import CannotListenError

from dicomtw.config import Configuration, Server, state_directory
from dicomtw.limits import Limits
from dicomtw.security import identity
from dicomtw.security.audit.target import Target
from dicomtw.security.words import access_warnings, hosts_in_words, is_bound, is_overheard, remote_in_words
from dicomtw.storage.directory import Durability

#: Operations that hand out what is stored, as a remote's settings name them.
_RETRIEVAL = frozenset({"find", "get", "move"})


def accepts_any_by_default(server: Server, configuration: Configuration) -> bool:
    """PMOD's box is checked by default only while no remote is configured."""
    return not configuration.remotes and not server.known_ae_only


def any_may_associate(server: Server, configuration: Configuration) -> bool:
    """Whether associations are accepted from any AE title."""
    return server.accept_any_ae or accepts_any_by_default(server, configuration)


def describe(server: Server, configuration: Configuration) -> list[str]:
    """What a server will do, in words."""
    places = [] if server.port is None else [f"{'dicomtls' if server.tls else 'tcp'}:{server.port}"]
    places += server.listen
    any_ae = any_may_associate(server, configuration)
    lines = [
        f"AE title {server.aet} on {', '.join(places)}",
        f"objects go to {server.store}, durability {server.durability}, on duplicate {server.on_duplicate}",
        f"associations are accepted from {'any AE title' if any_ae else 'configured remotes only'}",
        "query and retrieve are for "
        + ("anybody" if server.allow_retrieve == "any" else "configured remotes only"),
    ]
    if server.audit is not None:
        lines.append(_audit(server))
    lines += identity.in_words(server.demand, server.auth, without_tls=server.auth_without_tls)
    if server.no_implementation_version_name:
        lines.append("the implementation version name is not sent")
    if server.enforce_default_transfer_syntax:
        lines.append("Implicit VR Little Endian is enforced")
    lines += hosts_in_words(
        server.networks,
        server.associations_per_minute_per_host,
        server.failed_associations_per_minute_per_host,
    )
    lines += _limits(server)
    lines += map(remote_in_words, configuration.remotes)
    return lines


def _limits(server: Server) -> list[str]:
    """How much is taken on, in words."""
    limits = Limits(
        max_associations=server.max_associations,
        max_connections=server.max_connections,
        max_connections_per_host=server.max_connections_per_host,
    )
    of_host = server.max_associations_per_host
    associations = f"{server.max_associations} associations at a time"
    associations += f" ({of_host} of one host)" if of_host else ""
    size, free = server.max_object_size, server.min_free_space
    objects = f"objects of {size} MiB at most are stored" if size else "objects of any size are stored"
    if free is None:
        objects += " while 256 MiB, or a twentieth of the file system, are free"
    elif free:
        objects += f" while {free} MiB are free"
    matches = f"{server.max_matches} matches" if server.max_matches else "any number of matches"
    waiting = f"{limits.waiting} connections without one ({limits.waiting_per_host} of one host)"
    return [
        f"at most {associations}, and {waiting}",
        objects,
        f"a query may take {server.query_timeout:g} seconds and have {matches}",
    ]


def _audit(server: Server) -> str:
    """What becomes of audit messages, in words."""
    said = f"audit messages go to {Target.parse(server.audit or '')}, and wait in {state_directory(server)}"
    return said + (", without which nobody associates" if server.audit_required else "")


def warnings_of(server: Server, configuration: Configuration) -> list[str]:
    """What an operator should think about."""
    found = []
    if accepts_any_by_default(server, configuration) and not server.accept_any_ae:
        found.append("no remote is configured: C-ECHO and C-STORE are accepted from anyone")
    if not configuration.remotes and server.known_ae_only:
        found.append("only known AEs are accepted and none is configured: nobody is accepted")
    if (server.audit or "").startswith("udp:"):
        found.append("audit messages go over the network as they are, and may be lost there: tls: is better")
    found += identity.warnings(
        server.demand,
        [remote.aet for remote in configuration.remotes if remote.users],
        is_plain=_is_plain(server),
        without_tls=server.auth_without_tls,
    )
    if server.min_free_space == 0:
        found.append("objects are stored until no space is left: others on the same disk have none either")
    if server.durability == Durability.RELAXED.value:
        found.append("durability is relaxed: a power cut may take objects that were acknowledged")
    if server.allow_retrieve == "any" and any_may_associate(server, configuration):
        found.append("anybody may query and retrieve what is stored")
    elif known := _known_by_title(configuration):
        titles = ", ".join(known)
        found.append(
            f"without check-host whoever calls himself {titles} may query or retrieve what is stored"
        )
    found += [
        f"remote {remote.aet}: without tls-ca its certificate is not verified"
        for remote in configuration.remotes
        if remote.tls and remote.tls_ca is None and not remote.tls_sha256
    ]
    found += access_warnings(
        configuration.remotes,
        server.networks,
        server.listen,
        tls=server.tls,
        asks_for_certificate=server.tls_ca is not None and server.tls_verify != "none",
    )
    if any(text.removeprefix("haproxy:").startswith("ssl:") for text in server.listen):
        found.append("ssl: endpoints have the TLS settings of Twisted; dicomtls: has the profiles of PS3.15")
    return found


def _is_plain(server: Server) -> bool:
    """Whether it listens where others can overhear what it is sent; what haproxy: is behind is not known."""
    return (server.port is not None and not server.tls) or any(map(is_overheard, server.listen))


def _known_by_title(configuration: Configuration) -> list[str]:
    """Remotes that may ask for what is stored, and that their AE title alone tells from others."""
    titles = (
        remote.aet
        for remote in configuration.remotes
        if not is_bound(remote) and not _RETRIEVAL.isdisjoint(remote.operations)
    )
    return [*dict.fromkeys(titles)]


def no_endpoint(text: str, error: Exception) -> str:
    """Why a text is no server endpoint."""
    if text.startswith("systemd:") and isinstance(error, LookupError):
        return f"--listen={text}: systemd has passed no such socket"
    return f"--listen takes a Twisted server endpoint, not {text!r}: {error or type(error).__name__}"


def why_not(description: str, error: BaseException | None) -> str:
    """Why an endpoint cannot be listened on, and what to do."""
    cause = error.socketError if isinstance(error, CannotListenError) else error
    number = getattr(cause, "errno", None)
    is_ip = description.removeprefix("haproxy:").startswith(("port ", "tcp:", "tcp6:", "ssl:", "dicomtls:"))
    if number == errno.EACCES and is_ip:
        return (
            f"cannot listen on {description}: permission denied. Use a port above 1024, or start as root "
            "with twistd --uid and --gid, which opens the port first and then drops root"
        )
    if number == errno.EADDRNOTAVAIL:
        why = f"{os.strerror(number)} (--interface takes an IP address of this machine)"
        return f"cannot listen on {description}: {why}"
    if number == errno.EADDRINUSE:
        return f"cannot listen on {description}: another program listens there"
    return f"cannot listen on {description}: {os.strerror(number) if number else error}"
