"""``twistd dicom``: its options and its service. Nothing here imports the reactor before it is needed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from twisted.application.service import IService
from twisted.python import usage

from dicomtw.check import check
from dicomtw.config import LOG_FORMAT, WORKERS, Configuration, Server
from dicomtw.configure import configure
from dicomtw.jsonlog import file_log_observer
from dicomtw.security.remote import Remote, parse_remote
from dicomtw.service import DicomService, Process
from dicomtw.settings import FLAG, PATH, ConfigError, Kind, settings_of

_SETTINGS = settings_of(Server)


def _parameters() -> list[list[Any]]:
    return [
        [name, None, None, f"{setting.metadata['meaning']}{_default(setting.default)}"]
        for name, setting in _SETTINGS.items()
        if setting.metadata["kind"] is not FLAG and not setting.metadata["many"]
    ]


def _default(value: Any) -> str:
    return "" if value in (None, "") else f" [default: {value}]"


class Options(usage.Options):
    """The options of contract and config file; those that may be repeated are the `opt_` methods."""

    synopsis = "[options]"
    optFlags = [
        *(
            [name, None, setting.metadata["meaning"]]
            for name, setting in _SETTINGS.items()
            if setting.metadata["kind"] is FLAG
        ),
        ["check", None, "Validate the configuration, say what it means, and exit."],
    ]
    optParameters = [
        *_parameters(),
        ["config", None, None, "TOML file with [[server]] and [[remote]] tables; the command line wins."],
        ["log-format", None, None, "text, or json for one JSON object per line [default: text]"],
        ["workers", None, None, "processes that share the listeners, the store and the limits [default: 1]"],
    ]

    configuration: Configuration

    def __init__(self) -> None:
        super().__init__()
        self._remotes: list[Remote] = []
        self._many: dict[str, list[str]] = {}

    def opt_listen(self, endpoint: str) -> None:
        """Listen on any Twisted server endpoint string; may be repeated."""
        self._many.setdefault("listen", []).append(endpoint)

    def opt_networks(self, network: str) -> None:
        """Speak with peers from this network or address only; may be repeated."""
        self._many.setdefault("networks", []).append(network)

    def opt_auth(self, checker: str) -> None:
        """What checks the users that requestors name, by any Twisted checker (scrypt:FILE file: unix ...);
        may be repeated.
        """
        self._many.setdefault("auth", []).append(checker)

    def opt_prefer_transfer_syntax(self, uid: str) -> None:
        """Choose this transfer syntax where it is offered, before others; may be repeated."""
        self._many.setdefault("prefer-transfer-syntax", []).append(uid)

    def opt_index_attribute(self, keyword: str) -> None:
        """A further attribute to index, by its keyword, as LEVEL:Keyword for another level than IMAGE; may be
        repeated.
        """
        self._many.setdefault("index-attribute", []).append(keyword)

    def opt_remote(self, text: str) -> None:
        """A known remote: AET@HOST:PORT[,FLAG...], flags as in a [[remote]] table; may be repeated."""
        try:
            self._remotes.append(parse_remote(text))
        except ConfigError as fault:
            raise usage.UsageError(f"--remote {fault}") from None

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """As PMOD's users write them: one dash will do (``-tls``). A fault is one line, and exit status 1."""
        words = list(sys.argv[1:] if options is None else options)
        try:
            super().parseOptions([*map(self._two_dashes, words)])
        except usage.UsageError as fault:
            _fail(str(fault))

    def _two_dashes(self, word: str) -> str:
        name = word[1:].partition("=")[0]
        is_long = len(name) > 1 and (name in self.longOpt or f"{name}=" in self.longOpt)
        return f"-{word}" if word.startswith("-") and is_long else word

    def parseArgs(self, *args: str) -> None:
        if args:
            raise usage.UsageError(f"dicom takes options only, not {args[0]!r}")

    def postOptions(self) -> None:
        chosen: dict[str, Any] = {}
        for name, setting in _SETTINGS.items():
            kind = setting.metadata["kind"]
            if kind is FLAG:
                if self[name]:
                    chosen[setting.name] = True
            elif setting.metadata["many"]:
                if name in self._many:
                    chosen[setting.name] = [_value(name, kind, word) for word in self._many[name]]
            elif self[name] is not None:
                chosen[setting.name] = _value(name, kind, self[name])
        log_format = self["log-format"]
        if log_format is not None:
            log_format = _value("log-format", LOG_FORMAT, log_format)
        workers = None if self["workers"] is None else _value("workers", WORKERS, self["workers"])
        path = None if self["config"] is None else _value("config", PATH, self["config"])
        try:
            self.configuration = configure(path, chosen, tuple(self._remotes), log_format, workers)
        except ConfigError as fault:
            raise usage.UsageError(str(fault)) from None
        if self["check"]:
            self._check()
        if self.configuration.log_format == "json" and "fileLogObserverFactory" in self._parent:  # twist
            self._parent["fileLogObserverFactory"] = file_log_observer

    def _check(self) -> NoReturn:
        faults = check(self.configuration)
        for fault in faults:
            print(f"dicom: {fault}", file=sys.stderr)
        raise SystemExit(1 if faults else 0)

    @property
    def _parent(self) -> dict[str, Any]:
        """The options of the twistd or twist around us."""
        return getattr(self, "parent", None) or {}


def _value(name: str, kind: Kind, word: str) -> Any:
    """The value of an option."""
    try:
        return kind.check(kind.parse(word))
    except ValueError:
        raise usage.UsageError(f"--{name} takes {kind.takes}, not {word!r}") from None


def _fail(why: str) -> NoReturn:
    print(f"dicom: {why}", file=sys.stderr)
    raise SystemExit(1)


def makeService(options: Options) -> IService:
    """The service of a parsed command line."""
    service: IService = DicomService(options.configuration, process=Process(options.parent or {}))
    return service
