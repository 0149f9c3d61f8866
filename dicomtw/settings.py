"""What a setting is: what it takes, in words and in code, its default and its meaning, declared once.

The command line, the TOML file and the option reference are made from such declarations. A `Kind` says what
a value must be; a table of settings is a frozen attrs class of `setting` fields. Every fault is a
`ConfigError`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from dicomtw import ae_title


class ConfigError(Exception):
    """One line that says which setting is wrong, and what it takes."""


@attrs.frozen
class Kind:
    """What a setting takes.

    `takes` completes "it takes ..."; `check` returns the value to use for one given in TOML, or raises
    `ValueError`; `parse` makes such a value of a word on the command line, and may raise `ValueError` too.
    """

    takes: str
    check: Callable[[Any], Any]
    parse: Callable[[str], Any] = str


def kind_of_number(lowest: int, highest: int, unit: str) -> Kind:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError
        return value

    return Kind(f"a whole number of {unit} from {lowest} to {highest}", check, int)


def kind_of_choice(*choices: str) -> Kind:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return Kind("one of " + ", ".join(choices), check)


def _check_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def check_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _check_path(value: Any) -> Path:
    text = check_text(str(value) if isinstance(value, Path) else value)
    if "\0" in text:
        raise ValueError
    return Path(text)


def _check_ae_title(value: Any) -> str:
    text = check_text(value)
    if ae_title.fault(text) is not None:
        raise ValueError
    return ae_title.significant(text)


def _check_seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.1 <= value <= 1e6:
        raise ValueError
    return float(value)


def _check_address(value: Any) -> str:
    return str(ipaddress.ip_address(check_text(value)))


def _check_pdu_length(value: Any) -> int:
    length: int = kind_of_number(0, 2**32 - 1, "").check(value)
    if 0 < length < 4096:
        raise ValueError
    return length


FLAG = Kind("true or false", _check_flag)
TEXT = Kind("a text", check_text)
PATH = Kind("a path", _check_path)
AE_TITLE = Kind("an AE title: 1 to 16 ASCII characters, no backslash", _check_ae_title)
SECONDS = Kind("a number of seconds from 0.1 to 1000000", _check_seconds, float)
ADDRESS = Kind("an IP address of this machine", _check_address)
PORT = Kind(
    "a port number from 0 (any free one) to 65535",
    kind_of_number(0, 65535, "").check,
    int,
)
REMOTE_PORT = Kind("a port number from 1 to 65535", kind_of_number(1, 65535, "").check, int)
ENDPOINT = Kind("a Twisted server endpoint string, such as tcp:4030", check_text)
COUNT = Kind("a whole number up to 1000000, or 0", kind_of_number(0, 1_000_000, "").check, int)
MEBIBYTES = Kind("a whole number of MiB up to 1073741824, or 0", kind_of_number(0, 1 << 30, "").check, int)
PDU_LENGTH = Kind("a number of bytes from 4096 to 4294967295, or 0 for no limit", _check_pdu_length, int)


def setting(kind: Kind, default: Any, meaning: str, *, many: bool = False, may_be_empty: bool = False) -> Any:
    """A field for a setting. `many`: it may be given several times, and is a tuple.

    An empty list is refused, which looks as if it allowed nobody and nothing, where none given is no
    restriction; `may_be_empty` is for lists that restrict nothing, or that then allow nothing.
    """

    def convert(value: Any) -> Any:
        if value is default:
            return value
        try:
            if not many:
                return kind.check(value)
            if isinstance(value, str) or not isinstance(value, list | tuple):
                raise ValueError
            if not (value or may_be_empty):
                raise ConfigError(f"takes at least one value, each {kind.takes}, not an empty list")
            return tuple(kind.check(item) for item in value)
        except ValueError:
            plural = "a list of values, each " if many else ""
            raise ConfigError(f"takes {plural}{kind.takes}, not {value!r}") from None

    return attrs.field(
        default=default, converter=convert, metadata={"kind": kind, "meaning": meaning, "many": many}
    )


def settings_of(table: type[Any]) -> Mapping[str, attrs.Attribute[Any]]:
    """The settings of a table by their names as users write them, with dashes."""
    return {field.name.replace("_", "-"): field for field in attrs.fields(table)}


def dashed(name: str) -> str:
    return name.replace("_", "-")


def make(
    table: type[Any],
    values: Mapping[str, Any],
    name: Callable[[str], str],
    where: str = "",
    options: Mapping[str, Any] = {},
) -> Any:
    """An instance, whose faults name their settings: as options where the command line set them."""
    for field in attrs.fields(table):
        if field.name in values:
            try:
                field.converter(values[field.name])
            except ConfigError as fault:
                origin = "--" if field.name in options else where
                raise ConfigError(f"{origin}{name(field.name)} {fault}") from None
    try:
        return table(**values)
    except ConfigError as fault:
        raise ConfigError(f"{where}{fault}") from None
