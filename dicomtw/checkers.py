"""Our own checkers of users, ``scrypt:FILE`` and ``usernames:NAME[:NAME...]``, for `authentication`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from zope.interface import implementer

from dicomtw.authentication import IUsername
from dicomtw.security import passwords
from dicomtw.security.kept import Kept
from dicomtw.threaded import InThread, Turns


@implementer(ICredentialsChecker)
class ScryptChecker:
    """Checks names and passcodes against a file of `security.passwords`, which may change meanwhile.

    Somebody who is not in the file takes as long as the slowest who is. Who may no longer read the file, for
    root has been dropped since, goes on with what was read. `in_thread` is by default the reactor's.
    """

    log = Logger()
    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, path: Path, in_thread: InThread | None = None) -> None:
        self._turns = Turns(in_thread)
        self._users = Kept(path, self._read)

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """The name, or `UnauthorizedLogin`; anything else if the file cannot be read."""
        return Deferred.fromCoroutine(self._check(credentials.username, credentials.password))

    async def _check(self, name: bytes, passcode: bytes) -> bytes | tuple[()]:
        if not await self._turns.call(lambda: self._find_and_match(name, passcode)):
            raise UnauthorizedLogin("wrong name or passcode")
        return name

    def _find_and_match(self, name: bytes, passcode: bytes) -> bool:
        """In a thread."""
        users = self._users.current()
        user = users.get(name.decode("utf-8", "replace"))
        found = (user or passwords.nobodys(users)).matches(passcode)
        return found and user is not None

    def _read(self, path: Path) -> dict[str, passwords.Hashed]:
        users, faults = passwords.read(path)
        for fault in faults:
            self.log.error("{fault}", fault=fault)
        if len({one.cost for one in users.values()}) > 1:
            self.log.warn(
                "{path}: passcodes are hashed at different costs, so that it shows in the time of an answer "
                "who is a user; dicomtw passwd hashes them anew",
                path=path,
            )
        return users

    def load(self) -> ScryptChecker:
        """Read the file; raises `OSError`, and `ValueError` for the first bad line."""
        _, faults = passwords.read(self._users.path)
        if faults:
            raise ValueError(faults[0])
        self._users.current()
        return self


@implementer(ICredentialsChecker)
class UsernamesChecker:
    """Believes whoever says that he is one of `names`: for networks where the peers are known otherwise."""

    credentialInterfaces = (IUsername,)

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(name.encode() for name in names)

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """The name, or `UnauthorizedLogin`."""
        if credentials.username not in self._names:
            return fail(UnauthorizedLogin("the name is not in the list"))
        return succeed(credentials.username)


def scrypt_checker(argument: str) -> ScryptChecker:
    """The checker of ``scrypt:FILE``; raises `ValueError`."""
    if not argument:
        raise ValueError("the file is missing")
    try:
        return ScryptChecker(Path(argument).absolute()).load()
    except OSError as error:
        raise ValueError(f"cannot read {argument}: {error.strerror}") from None


def usernames_checker(argument: str) -> UsernamesChecker:
    """The checker of ``usernames:NAME[:NAME...]``; raises `ValueError`."""
    names = argument.split(":")
    if not all(names):
        raise ValueError("a name is missing")
    return UsernamesChecker(names)
