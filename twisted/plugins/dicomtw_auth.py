"""Makes the checkers of `dicomtw.checkers` known to ``--auth``: they are imported when one is used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from twisted.cred.strcred import ICheckerFactory
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(ICheckerFactory, IPlugin)
class _Factory:
    """One type of checker: the name of its function in `dicomtw.checkers`, and of what it takes."""

    def __init__(self, name: str, takes: str, makes: str, credentials: str, about: str) -> None:
        self.authType = name
        self.authHelp = about
        self.argStringFormat = takes
        self._makes = makes
        self._credentials = credentials

    @property
    def credentialInterfaces(self) -> Sequence[Any]:
        module, _, name = self._credentials.rpartition(".")
        return (getattr(import_module(module), name),)

    def generateChecker(self, argstring: str) -> Any:
        return getattr(import_module("dicomtw.checkers"), self._makes)(argstring)


scrypt = _Factory(
    "scrypt",
    "the path of a file",
    "scrypt_checker",
    "twisted.cred.credentials.IUsernamePassword",
    "Names and passcodes in a file that `dicomtw passwd FILE USER` makes.",
)

usernames = _Factory(
    "usernames",
    "NAME[:NAME...]",
    "usernames_checker",
    "dicomtw.authentication.IUsername",
    "Whoever says that he is one of these users is believed without proof (DICOM user identity of type 1).",
)
