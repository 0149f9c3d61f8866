"""The peer that a command line names, and associations with it."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from dicomtw.client import TLS, Associating, Context, UserIdentity, associate, tls_with
from dicomtw.command import terminal
from dicomtw.command.exits import Fault
from dicomtw.configure import configure
from dicomtw.limits import Limits
from dicomtw.security.passwords import line_of, passcode_in
from dicomtw.security.remote import Remote, parse_peer
from dicomtw.security.tls import TLSError
from dicomtw.settings import ConfigError

_TLS_OPTIONS = ("tls_ca", "tls_cert", "tls_key", "tls_no_verify")


@attrs.frozen
class Peer:
    """Whom to associate with, and how."""

    remote: Remote
    called: str
    calling: str
    tls: TLS | None
    maximum_length: int
    limits: Limits
    retries: int | None
    user_identity: UserIdentity | None = None

    def __str__(self) -> str:
        host = f"[{self.remote.host}]" if ":" in self.remote.host else self.remote.host
        return f"{self.called}@{host}:{self.remote.port}"

    def associate(self, contexts: Iterable[Context], **more: Any) -> Associating:
        """Request an association; see `client.associate`. What cannot be proposed is a `Fault`."""
        try:
            return associate(
                self.remote,
                contexts=contexts,
                called=self.called,
                calling=self.calling,
                maximum_length=self.maximum_length,
                tls=self.tls,
                limits=self.limits,
                retries=self.retries,
                user_identity=self.user_identity,
                **more,
            )
        except ValueError as error:
            raise Fault(str(error)) from None


def peer_of(arguments: Namespace) -> Peer:
    """The peer of a command line; raises `Fault`."""
    remote = _remote(arguments)
    tls = _tls(arguments, remote)
    if arguments.tls_no_verify and remote.password_file is not None and arguments.user is None:
        raise Fault(
            f"--tls-no-verify: anybody could get the passcode that is for {remote.aet}; "
            "say with --user who we are instead"
        )
    if arguments.password_file is not None and tls is None:
        terminal.say("the passcode goes over a connection without TLS, where others can read it")
    return Peer(
        remote=remote,
        called=arguments.called or remote.aet,
        calling=arguments.calling,
        tls=tls,
        maximum_length=arguments.max_pdu,
        limits=Limits(
            artim_timeout=arguments.timeout,
            dimse_timeout=arguments.dimse_timeout,
            idle_timeout=max(600.0, arguments.dimse_timeout),
        ),
        retries=arguments.retries,
        user_identity=_user_identity(arguments),
    )


def _user_identity(arguments: Namespace) -> UserIdentity | None:
    """Who we are; raises `Fault`, and `OSError` for the file of the passcode."""
    path = arguments.password_file
    if arguments.user is None:
        if path is not None:
            raise Fault("--password-file needs --user")
        return None
    try:
        if path is None:
            return UserIdentity.username(arguments.user)
        return UserIdentity.username_and_passcode(arguments.user, _passcode(path))
    except ValueError as fault:
        raise Fault(f"--user: {fault}") from None


def _passcode(path: Path) -> bytes:
    return line_of(sys.stdin.buffer, "standard input") if str(path) == "-" else passcode_in(path)


def _remote(arguments: Namespace) -> Remote:
    text = arguments.peer
    if arguments.config is not None:
        known = _remotes(arguments)
        if text in known:
            return known[text]
    try:
        remote = parse_peer(text)
    except ConfigError as fault:
        raise Fault(f"PEER {text!r}: {fault}") from None
    if remote is None:
        among = (
            ""
            if arguments.config is None
            else f", or the AE title of a remote with host and port in {arguments.config}"
        )
        raise Fault(f"PEER is [AET@]HOST:PORT{among}, not {text!r}")
    return remote


def _remotes(arguments: Namespace) -> dict[str, Remote]:
    """The remotes of a configuration that can be connected to, by AE title."""
    try:
        found = configure(arguments.config, {}).remotes
    except ConfigError as fault:
        raise Fault(str(fault)) from None
    return {remote.aet: remote for remote in found if remote.host and remote.port}


def _tls(arguments: Namespace, remote: Remote) -> TLS | None:
    """TLS as the command line and the remote's own settings have it; raises `Fault`."""
    if not (arguments.tls or remote.tls):
        for name in _TLS_OPTIONS:
            if getattr(arguments, name):
                raise Fault(f"--{name.replace('_', '-')} needs --tls")
        return None
    tls = tls_with(remote) or TLS()
    if arguments.tls_ca or arguments.tls_no_verify:
        # What the command line says of whom to believe is in the place of what the remote's settings say.
        verify = not arguments.tls_no_verify
        tls = attrs.evolve(tls, ca=arguments.tls_ca or tls.ca, crl=None, pins=(), verify=verify)
    if arguments.tls_cert:
        # Without the key of the settings, which is of use with its own certificate only.
        tls = attrs.evolve(tls, cert=arguments.tls_cert, key=None)
    if arguments.tls_key:
        tls = attrs.evolve(tls, key=arguments.tls_key)
    try:  # before anything is connected
        tls.context  # noqa: B018
    except TLSError as error:
        raise Fault(str(error)) from None
    return tls
