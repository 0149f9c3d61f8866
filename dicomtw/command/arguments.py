"""The command line of ``dicomtw``. Nothing here imports more than it takes to parse words."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import dicomtw
from dicomtw import ae_title
from dicomtw.command.exits import MEANINGS, Fault

#: Words for the information models of query and retrieve, and their levels from the top (PS3.4 C.6).
MODELS = ("patient", "study", "patient-study")
LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
#: What takes the options of ``twistd dicom``, which it reads itself.
PASSED_ON = ("serve", "check")
FORMATS = ("table", "json", "dicom-json", "csv")

_EXIT_STATUSES = "exit status:\n" + "\n".join(f"  {code:<4d}{text}" for code, text in MEANINGS.items())

_DESCRIPTION = """\
Ask DICOM peers, send to them and have them send; run and tend a server.

PEER is [AET@]HOST:PORT, such as PMOD@localhost:4030, or with --config the AE title of a [[remote]] there."""


class Parser(ArgumentParser):
    """An `ArgumentParser` that ends with a `Fault`, and does not take abbreviations."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise Fault(f"{message} (see {self.prog} --help)")


def parser() -> Parser:
    """The parser of the whole command line."""
    whole = Parser(prog="dicomtw", description=_DESCRIPTION, epilog=_EXIT_STATUSES)
    whole.add_argument("--version", action="version", version=f"dicomtw {dicomtw.__version__}")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (summary, add) in _COMMANDS.items():
        one = commands.add_parser(name, help=summary, description=summary, epilog=_EXIT_STATUSES)
        add(one)
    return whole


# -- what options take


def _kind(takes: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type for `add_argument`; `read` raises `ValueError` for what is none."""

    def convert(word: str) -> Any:
        try:
            return read(word)
        except ValueError:
            raise ArgumentTypeError(f"takes {takes}, not {word!r}") from None

    return convert


def _read_ae_title(word: str) -> str:
    if ae_title.fault(word) is not None:
        raise ValueError
    return ae_title.significant(word)


def _number_from(lowest: float, highest: float, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        value = kind(word)
        if not lowest <= value <= highest:
            raise ValueError
        return value

    return read


def _read_pdu_length(word: str) -> int:
    length = int(word)
    if length != 0 and not 4096 <= length < 2**32:
        raise ValueError
    return length


_AE_TITLE = _kind("an AE title", _read_ae_title)
_SECONDS = _kind("a number of seconds from 0.1 to 1000000", _number_from(0.1, 1e6, float))
_COUNT = _kind("a whole number from 1 to 1000", _number_from(1, 1000, int))
_TIMES = _kind("a whole number from 0 to 100", _number_from(0, 100, int))
_PDU_LENGTH = _kind("a number of bytes from 4096, or 0 for no limit", _read_pdu_length)
_LEVEL = _kind(f"one of {', '.join(LEVELS)}", lambda word: LEVELS[LEVELS.index(word.upper())])


# -- groups of options


def _how_much(one: ArgumentParser) -> None:
    group = one.add_argument_group("what is said")
    group.add_argument("-v", "--verbose", action="count", default=0, help="say more; -vv: much more")
    group.add_argument("-q", "--quiet", action="count", default=0, help="only say what is wrong")


def _peer(one: ArgumentParser) -> None:
    one.add_argument("peer", metavar="PEER", help="[AET@]HOST:PORT, or the AE title of a remote in --config")
    group = one.add_argument_group("association")
    group.add_argument("--config", type=Path, metavar="FILE", help="a server's TOML file, for its remotes")
    group.add_argument(
        "-aet", "--calling", type=_AE_TITLE, default="DICOMTW", metavar="AET", help="our AE title [DICOMTW]"
    )
    group.add_argument(
        "-aec", "--called", type=_AE_TITLE, metavar="AET", help="the peer's AE title [ANY-SCP]"
    )
    group.add_argument(
        *("-to", "--timeout"),
        type=_SECONDS,
        default=30.0,
        metavar="SECONDS",
        help="to connect, and to associate [30]",
    )
    group.add_argument(
        *("-td", "--dimse-timeout"),
        type=_SECONDS,
        default=600.0,
        metavar="SECONDS",
        help="of silence while the peer owes a response [600]",
    )
    group.add_argument(
        *("-pdu", "--max-pdu"),
        type=_PDU_LENGTH,
        default=262144,
        metavar="BYTES",
        help="the longest PDU that we take [262144]",
    )
    group.add_argument(
        "--retries", type=_TIMES, metavar="N", help="if it cannot be reached or is busy [the remote's, or 0]"
    )
    group.add_argument("--user", metavar="NAME", help="who we are (user identity negotiation)")
    group.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="the passcode is its first line; - for standard input",
    )
    tls = one.add_argument_group("TLS")
    tls.add_argument("-tls", "--tls", action="store_true", help="connect with TLS")
    tls.add_argument("--tls-ca", type=Path, metavar="FILE", help="who certifies it [this machine's roots]")
    tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="our certificate")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key [the file of --tls-cert]")
    tls.add_argument("--tls-no-verify", action="store_true", help="encrypt, whoever the peer is")
    _how_much(one)


def _query(one: ArgumentParser) -> None:
    group = one.add_argument_group("query")
    group.add_argument("-L", "--level", type=_LEVEL, default="STUDY", help=f"{', '.join(LEVELS)} [STUDY]")
    group.add_argument(
        *("-k", "--key"),
        action="append",
        default=[],
        dest="keys",
        metavar="KEY[=VALUE]",
        help="KEY is a keyword or a tag (PatientName, 00100010); in a sequence SEQUENCE.KEY",
    )
    group.add_argument("--model", choices=MODELS, help="[study; for -L PATIENT patient]")


# -- commands


def _echo(one: ArgumentParser) -> None:
    _peer(one)
    one.add_argument("--repeat", type=_COUNT, default=1, metavar="N", help="ask N times [1]")


def _send(one: ArgumentParser) -> None:
    _peer(one)
    one.add_argument("paths", nargs="+", type=Path, metavar="FILE|DIR", help="directories with all in them")
    group = one.add_argument_group("sending")
    group.add_argument("--jobs", type=_COUNT, default=1, metavar="N", help="associations at once [1]")
    group.add_argument(
        "--window",
        type=_COUNT,
        default=8,
        metavar="N",
        help="objects under way on each, if it agrees [8]",
    )
    group.add_argument("--as-is", action="store_true", help="in no other transfer syntax than a file has")
    group.add_argument("--resume", action="store_true", help="skip what has arrived, as the journal says")
    group.add_argument("--journal", type=Path, metavar="FILE", help="keep it here [.dicomtw-journal]")


def _find(one: ArgumentParser) -> None:
    _peer(one)
    _query(one)
    one.add_argument(
        "--format", choices=FORMATS, help="[table on a terminal, else json: an object KEYWORD: VALUE a line]"
    )


def _move(one: ArgumentParser) -> None:
    _peer(one)
    _query(one)
    one.add_argument("--to", type=_AE_TITLE, required=True, metavar="AET", help="whom the peer sends it to")


def _get(one: ArgumentParser) -> None:
    _peer(one)
    _query(one)
    group = one.add_argument_group("what comes")
    group.add_argument(
        *("-o", "--output"),
        type=Path,
        required=True,
        metavar="DIR",
        help="a store: STUDY/SERIES/INSTANCE.dcm in it, other versions in superseded",
    )
    group.add_argument(
        "--strict", action="store_true", help="each object is on stable storage before it is acknowledged"
    )


def _serve(one: ArgumentParser) -> None:
    one.add_argument("options", nargs="*", metavar="OPTION", help="see twistd dicom --help")


def _reindex(one: ArgumentParser) -> None:
    one.add_argument("store", type=Path, metavar="DIR", help="the directory of --store")
    _how_much(one)


def _passwd(one: ArgumentParser) -> None:
    one.add_argument("file", type=Path, metavar="FILE", help="the file of --auth=scrypt:FILE")
    one.add_argument("user", metavar="USER", help="whose passcode is asked for, or read from standard input")
    _how_much(one)


_COMMANDS: dict[str, tuple[str, Callable[[ArgumentParser], None]]] = {
    "echo": ("ask whether the peer is there (C-ECHO)", _echo),
    "send": ("send files (C-STORE)", _send),
    "find": ("ask what the peer has (C-FIND)", _find),
    "move": ("have the peer send to somebody (C-MOVE)", _move),
    "get": ("have the peer send to us (C-GET)", _get),
    "serve": ("run a server in the foreground: twistd -n dicom", _serve),
    "check": ("say what a server's options mean: twistd dicom --check", _serve),
    "passwd": ("add a user to a file of --auth=scrypt:FILE, or change his passcode", _passwd),
    "reindex": ("bring the index of a store in line with its files", _reindex),
}
