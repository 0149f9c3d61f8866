"""The rules of access in words, for an operator."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dicomtw import uids
from dicomtw.security.addresses import Network
from dicomtw.security.remote import OPERATIONS, Remote

#: Of many names a line has this many.
_NAMES = 5


def remote_in_words(remote: Remote) -> str:
    """Who a remote is, what tells it from others, and what it may do."""
    host = remote.host or "any host"
    port = f":{remote.port}" if remote.port else ""
    places = [*(["there"] if remote.check_host else []), *map(str, remote.networks)]
    said = [
        f"remote {remote.aet} at {host}{port}{_over(remote)}",
        f"from {_names(places, 'or')} only" if places else "",
        f"with certificate {_names(map(str, remote.certificate), 'or')} only" if remote.certificate else "",
        f"for users {_names(map(repr, remote.users), 'and')} only" if remote.users else "",
        _for_operations(remote),
        f"of {_names(map(uids.name_of, remote.sop_classes), 'and')} only" if remote.sop_classes else "",
        f"C-MOVE to {_names(remote.destinations, 'and')} only" if remote.destinations else "",
        f"{remote.max_associations} associations at a time" if remote.max_associations else "",
        f"{remote.associations_per_minute} associations a minute" if remote.associations_per_minute else "",
    ]
    return ", ".join(filter(None, said))


def _over(remote: Remote) -> str:
    """What connections to a remote are made of."""
    if not remote.tls:
        return ""
    if remote.tls_sha256:
        return ", over TLS, known by its fingerprint"
    if remote.tls_ca is not None:
        return f", over TLS, certified by {remote.tls_ca}"
    return ", over TLS, not verified"


def _for_operations(remote: Remote) -> str:
    if not remote.operations:
        return "for no operation"
    return f"for {', '.join(remote.operations)} only" if len(remote.operations) < len(OPERATIONS) else ""


def hosts_in_words(networks: Iterable[Network], per_minute: int, failed_per_minute: int) -> list[str]:
    """What a server does about where peers come from, and how often."""
    places = _names(map(str, networks), "and")
    said = [
        f"peers are spoken with from {places} only" if places else "",
        f"a host may ask for {per_minute} associations a minute" if per_minute else "",
        f"a host that is rejected {failed_per_minute} times a minute is put off" if failed_per_minute else "",
    ]
    return [line for line in said if line]


def _names(names: Iterable[str], joint: str) -> str:
    """``A, B or C``, as many as fit on a line."""
    every = [*names]
    if len(every) > _NAMES:
        every = [*every[: _NAMES - 1], f"{len(every) - _NAMES + 1} more"]
    *first, last = every or [""]
    return f"{', '.join(first)} {joint} {last}" if first else last


#: Endpoints that have no TLS, whatever Twisted's plugins add.
_PLAIN = frozenset({"tcp", "tcp4", "tcp6", "unix", "systemd", "stdio"})

#: Those of them that nobody reaches but on this machine.
_LOCAL = re.compile(r"(unix|stdio|systemd(:.*)?[:=]UNIX)(:.*)?", re.DOTALL)


def is_plain(text: str) -> bool:
    """Whether an endpoint has no TLS, behind ``haproxy:`` too; what others do we cannot know."""
    return text.removeprefix("haproxy:").partition(":")[0] in _PLAIN


def is_overheard(text: str) -> bool:
    """Whether others can read what a network brings to an endpoint."""
    return is_plain(text) and _LOCAL.fullmatch(text.removeprefix("haproxy:")) is None


def _by_title(remotes: Iterable[Remote]) -> dict[str, list[Remote]]:
    found: dict[str, list[Remote]] = {}
    for remote in remotes:
        found.setdefault(remote.aet, []).append(remote)
    return found


def is_bound(remote: Remote) -> bool:
    """Whether more than its AE title tells it from others."""
    return bool(remote.check_host or remote.networks or remote.certificate or remote.users)


def access_warnings(
    remotes: Iterable[Remote],
    networks: Iterable[Network],
    listen: Iterable[str],
    *,
    tls: bool,
    asks_for_certificate: bool,
) -> list[str]:
    """Rules that leave somebody out whom they do not seem to be about. `tls` is that of the server's port."""
    listen, remotes = [*listen], [*remotes]
    found = []
    if all(map(is_plain, listen)) and not (tls and asks_for_certificate):
        why = "--tls-verify=none asks nobody for one" if tls else "there is no TLS"
        found += [
            f"remote {remote.aet} is bound to a certificate, and {why}: its associations are rejected"
            for remote in remotes
            if remote.certificate
        ]
    found += [
        f"{len(same)} remotes are called {title}, each for whom it fits: one is for anybody of that name"
        for title, same in _by_title(remotes).items()
        if len(same) > 1
        and any(is_bound(remote) for remote in same)
        and not all(is_bound(remote) for remote in same)
    ]
    is_unix = any(text.removeprefix("haproxy:").startswith("unix:") for text in listen)
    if is_unix and any(True for _ in networks):
        found.append("who comes through a unix: socket has no address, and so is not of --networks")
    return found
