"""Checkers of users by their strings, such as ``scrypt:FILE``, as `twisted.cred.strcred` has them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.strcred import InvalidAuthType, findCheckerFactories, findCheckerFactory

from dicomtw.authentication import Authentication, kinds_of
from dicomtw.security.identity import Demand, IdentityPolicy
from dicomtw.threaded import InThreads

#: Where the passcodes of the users of this machine are.
_SHADOW: Final = Path("/etc/shadow")


class AuthFault(Exception):
    """One line that says what is wrong with a checker string."""


def checker_of(description: str) -> Any:
    """The checker that a string such as ``scrypt:FILE`` describes; raises `AuthFault`."""
    name, _, argument = description.partition(":")
    try:
        factory = findCheckerFactory(name)
    except InvalidAuthType:
        raise AuthFault(
            f"--auth: no checker {name!r} is installed; there are {', '.join(_installed())}"
        ) from None
    if not kinds_of(factory.credentialInterfaces):
        raise AuthFault(
            f"--auth={name}: it checks nothing that DICOM has; there are {', '.join(_installed())}"
        )
    if name == "file" and argument and not os.path.isfile(argument):  # Twisted's would wait for it to come
        raise AuthFault(f"--auth={name}: there is no file {argument}")
    try:
        checker = factory.generateChecker(argument)
    except Exception as error:  # a plugin's, and it may raise anything
        said = " ".join((str(error) or type(error).__name__).split())
        raise AuthFault(f"--auth={name}: {said} (it takes: {_takes(factory)})") from None
    if name == "unix":
        _load_crypt()
        checker = InThreads(checker)
    if not ICredentialsChecker.providedBy(checker) or not kinds_of(checker.credentialInterfaces):
        raise AuthFault(f"--auth={name}: the plugin has made no checker of user identities")
    return checker


def _load_crypt() -> None:
    """What Twisted's checker of the users of this machine would import at the first login."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module("crypt")
    except ImportError:
        raise AuthFault("--auth=unix: it needs the module crypt, which this Python has no longer") from None


def authentication_of(
    demand: Demand, descriptions: Iterable[str], *, without_tls: bool = False
) -> Authentication | None:
    """How a server checks users, None if it ignores them; the checkers are made, and all they need loaded.

    Raises `AuthFault`.
    """
    if demand is Demand.IGNORE:
        return None
    named = tuple(descriptions)
    checkers = [checker_of(description) for description in named]
    kinds = kinds_of(one for checker in checkers for one in checker.credentialInterfaces)
    policy = IdentityPolicy(demand=demand, kinds=kinds, without_tls=without_tls)
    return Authentication(policy, checkers, dict(filter(None, map(_file_of, named))))


def _file_of(description: str) -> tuple[Path, str] | None:
    """The file of a checker that we know, and what becomes of it for whom it is unreadable."""
    name, _, argument = description.partition(":")
    if name == "scrypt":
        return Path(argument).absolute(), "a new one is used after a restart only"
    if name == "file":
        return Path(argument).absolute(), "none of its users is let in"
    if name == "unix":
        return _SHADOW, "no user of this machine is let in"
    return None


def _installed() -> list[str]:
    """The types of installed checkers that can be of use here."""
    return sorted({one.authType for one in findCheckerFactories() if kinds_of(one.credentialInterfaces)})


def _takes(factory: Any) -> str:
    return " ".join(str(factory.argStringFormat).split()).rstrip(".")
