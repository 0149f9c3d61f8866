"""The configuration of a TOML file and of the command line, which wins. Every fault is a `ConfigError`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dicomtw.config import LOG_FORMAT, WORKERS, Configuration, Server
from dicomtw.security.remote import Remote
from dicomtw.settings import ConfigError, Kind, dashed, make, settings_of

#: Settings of which one on the command line takes the place of all in the file.
_RIVALS = ({"accept_any_ae", "known_ae_only"},)


def configure(
    path: Path | None,
    options: Mapping[str, Any],
    remotes: tuple[Remote, ...] = (),
    log_format: str | None = None,
    workers: int | None = None,
) -> Configuration:
    """The configuration of a file, if there is one, and of what the command line says, which wins.

    Keys of `options` are field names of `Server`. Top-level keys of the file are for all its servers.
    Raises `ConfigError`.
    """
    document = {} if path is None else _read(path)
    origin = "" if path is None else f"{path}: "
    tables = _tables(document.pop("server", []), origin, "server")
    known = _tables(document.pop("remote", []), origin, "remote")
    chosen_format = _of_the_process("log-format", LOG_FORMAT, document.pop("log-format", "text"), origin)
    chosen_workers = _of_the_process("workers", WORKERS, document.pop("workers", 1), origin)
    common = _fields(Server, document, origin)
    single = {"port", "listen", "store", "state_dir"} & options.keys()
    if len(tables) > 1 and single:
        name = min(single).replace("_", "-")
        raise ConfigError(f"--{name} cannot be for each of the {len(tables)} servers in {path}")
    servers = []
    for number, table in enumerate(tables or [{}], 1):
        where = f"{origin}[[server]] {number}: " if tables else origin
        values = {**common, **_fields(Server, table, where)}
        for rivals in _RIVALS:
            if rivals & options.keys():  # the command line wins over all of them
                values = {name: value for name, value in values.items() if name not in rivals}
        values |= options
        if "port" not in values and not values.get("listen"):
            values["port"] = 4030
        servers.append(make(Server, values, dashed, where, options))
    file_remotes = []
    for number, table in enumerate(known, 1):
        where = f"{origin}[[remote]] {number}: "
        values = _fields(Remote, table, where)
        if "aet" not in values:
            raise ConfigError(f"{where}aet is missing")
        file_remotes.append(make(Remote, values, dashed, where))
    return Configuration(
        servers=tuple(servers),
        remotes=(*file_remotes, *remotes),
        log_format=_of_the_process("log-format", LOG_FORMAT, log_format or chosen_format, "--"),
        workers=_of_the_process("workers", WORKERS, chosen_workers if workers is None else workers, "--"),
    )


def _of_the_process(name: str, kind: Kind, value: Any, where: str) -> Any:
    """The value of a setting that is not one of a server."""
    try:
        return kind.check(value)
    except ValueError:
        raise ConfigError(f"{where}{name} takes {kind.takes}, not {value!r}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return {dashed(key): value for key, value in tomllib.loads(path.read_text("utf-8")).items()}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _tables(value: Any, origin: str, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ConfigError(f"{origin}{name} takes tables, written [[{name}]]")
    return value


def _fields(table: type[Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys of a TOML table as field names."""
    known = settings_of(table)
    fields = {}
    for key, value in values.items():
        field = known.get(dashed(key))
        if field is None:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}unknown key {key!r}{hint}")
        fields[field.name] = value
    return fields
