"""What can be set, declared once: the command line, the TOML file and the option reference are made from it.

A `Kind` says what a value must be, in words and in code; `Server` and `Remote` are frozen attrs classes of
settings. `configure` joins a TOML file and the command line; every fault is a `ConfigError`, one line that
names the file, the table and the key, or the option.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from dicomtw import ae_title, uids
from dicomtw.security.access import OPERATIONS
from dicomtw.security.tls import PROFILES
from dicomtw.storage.directory import Durability, OnDuplicate
from dicomtw.storage.index.attributes import Attributes


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


def _kind_of_number(lowest: int, highest: int, unit: str) -> Kind:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError
        return value

    return Kind(f"a whole number of {unit} from {lowest} to {highest}", check, int)


def _kind_of_choice(*choices: str) -> Kind:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return Kind("one of " + ", ".join(choices), check)


def _check_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _check_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _check_path(value: Any) -> Path:
    text = _check_text(str(value) if isinstance(value, Path) else value)
    if "\0" in text:
        raise ValueError
    return Path(text)


def _check_ae_title(value: Any) -> str:
    text = _check_text(value)
    if ae_title.fault(text) is not None:
        raise ValueError
    return ae_title.significant(text)


def _check_seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.1 <= value <= 1e6:
        raise ValueError
    return float(value)


def _check_address(value: Any) -> str:
    return str(ipaddress.ip_address(_check_text(value)))


def _check_pdu_length(value: Any) -> int:
    length: int = _kind_of_number(0, 2**32 - 1, "").check(value)
    if 0 < length < 4096:
        raise ValueError
    return length


def _check_index_attribute(value: Any) -> str:
    text = _check_text(value)
    Attributes((text,))
    return text


def _check_transfer_syntax(value: Any) -> str:
    text = _check_text(value)
    if text not in uids.TRANSFER_SYNTAXES:
        raise ValueError
    return text


FLAG = Kind("true or false", _check_flag)
TEXT = Kind("a text", _check_text)
PATH = Kind("a path", _check_path)
AE_TITLE = Kind("an AE title: 1 to 16 ASCII characters, no backslash", _check_ae_title)
SECONDS = Kind("a number of seconds from 0.1 to 1000000", _check_seconds, float)
ADDRESS = Kind("an IP address of this machine", _check_address)
PORT = Kind(
    "a port number from 0 (any free one) to 65535",
    _kind_of_number(0, 65535, "").check,
    int,
)
REMOTE_PORT = Kind("a port number from 1 to 65535", _kind_of_number(1, 65535, "").check, int)
ENDPOINT = Kind("a Twisted server endpoint string, such as tcp:4030", _check_text)
PDU_LENGTH = Kind("a number of bytes from 4096 to 4294967295, or 0 for no limit", _check_pdu_length, int)
INDEX_ATTRIBUTE = Kind("the keyword of an attribute, such as KVP or SERIES:KVP", _check_index_attribute)
TRANSFER_SYNTAX = Kind("the UID of a transfer syntax", _check_transfer_syntax)


def setting(kind: Kind, default: Any, meaning: str, *, many: bool = False) -> Any:
    """A field for a setting. `many`: it may be given several times, and is a tuple."""

    def convert(value: Any) -> Any:
        if value is default:
            return value
        try:
            if not many:
                return kind.check(value)
            if isinstance(value, str) or not isinstance(value, list | tuple):
                raise ValueError
            return tuple(kind.check(item) for item in value)
        except ValueError:
            plural = "a list of values, each " if many else ""
            raise ConfigError(f"takes {plural}{kind.takes}, not {value!r}") from None

    return attrs.field(
        default=default, converter=convert, metadata={"kind": kind, "meaning": meaning, "many": many}
    )


@attrs.frozen(kw_only=True)
class Remote:
    """An application entity that we know (PS3.15 leaves who may call to us)."""

    aet: str = setting(AE_TITLE, attrs.NOTHING, "its AE title")
    host: str = setting(TEXT, "", "its host name or IP address")
    port: int = setting(REMOTE_PORT, 0, "the port it listens on")
    tls: bool = setting(FLAG, False, "connections to it use TLS")
    check_host: bool = setting(FLAG, False, "accept associations in its name from its host only")
    no_implementation_version_name: bool = setting(
        FLAG, False, "leave item 55H out of what we answer it, as the server option does for all"
    )
    enforce_default_transfer_syntax: bool = setting(
        FLAG, False, "choose Implicit VR Little Endian for it, as the server option does for all"
    )

    operations: tuple[str, ...] = setting(
        _kind_of_choice(*OPERATIONS),
        tuple(OPERATIONS),
        f"what it may ask for: {', '.join(OPERATIONS)}",
        many=True,
    )
    tls_ca: Path | None = setting(
        PATH, None, "certificates of those who certify it, PEM; without them its certificate is not verified"
    )
    tls_cert: Path | None = setting(PATH, None, "our certificate for connections to it, PEM")
    tls_key: Path | None = setting(PATH, None, "the private key of that certificate, PEM (its file)")
    retries: int = setting(
        _kind_of_number(0, 100, "times"), 0, "how often to try again if it cannot be reached or is busy"
    )
    retry_delay: float = setting(SECONDS, 5.0, "seconds between two tries")

    def __attrs_post_init__(self) -> None:
        if self.check_host and not self.host:
            raise ConfigError("check-host needs the host")
        if (self.tls_ca, self.tls_cert, self.tls_key) != (None, None, None) and not self.tls:
            raise ConfigError("tls-ca, tls-cert and tls-key need tls")
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigError("tls-key needs tls-cert")


#: Words after AET@HOST:PORT in --remote, and what they set.
REMOTE_FLAGS = {
    "tls": "tls",
    "check-host": "check_host",
    "no-version": "no_implementation_version_name",
    "no-implementation-version-name": "no_implementation_version_name",
    "default-transfer-syntax": "enforce_default_transfer_syntax",
    "enforce-default-transfer-syntax": "enforce_default_transfer_syntax",
}


def parse_remote(text: str) -> Remote:
    """``AET@HOST:PORT[,FLAG...]``; an IPv6 address stands in brackets. Raises `ConfigError`."""
    address, *flags = text.split(",")
    title, at, host_and_port = address.rpartition("@")
    host, colon, port = host_and_port.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    if not (at and colon and host and port.isascii() and port.isdigit()) or (":" in host and not in_brackets):
        raise ConfigError(f"takes AET@HOST:PORT[,FLAG...], not {text!r}")
    if in_brackets:
        host = host[1:-1]
    unknown = [flag for flag in flags if flag not in REMOTE_FLAGS]
    if unknown:
        raise ConfigError(f"takes the flags {', '.join(REMOTE_FLAGS)}, not {unknown[0]!r}")
    values: dict[str, Any] = {"aet": title, "host": host, "port": int(port)}
    values |= {REMOTE_FLAGS[flag]: True for flag in flags}
    remote: Remote = _make(Remote, values, str.upper)
    return remote


_AT_A_PORT = re.compile(r"(?:[^@]*@)?(?:\[[0-9a-fA-F:.%]+\]|[^:@/\[\]]+):[0-9]+(?:,.*)?")


def parse_peer(text: str) -> Remote | None:
    """``[AET@]HOST:PORT[,FLAG...]``, called ANY-SCP without a title; None for what does not look like that.

    Raises `ConfigError`.
    """
    if not _AT_A_PORT.fullmatch(text):
        return None
    remote = parse_remote(text if "@" in text else f"ANY-SCP@{text}")
    if not remote.port:
        raise ConfigError("cannot be at port 0")
    return remote


@attrs.frozen(kw_only=True)
class Server:
    """One server: its name, where it listens, whom it serves, and where what it receives goes."""

    port: int | None = setting(PORT, None, "listen on this TCP port (4030 unless --listen is given)")
    aet: str = setting(AE_TITLE, "DICOMTW", "this server's AE title")
    interface: str = setting(ADDRESS, "", "the address to listen on with --port (all of IPv4)")
    listen: tuple[str, ...] = setting(
        ENDPOINT,
        (),
        "listen on any Twisted server endpoint (tcp: ssl: unix: systemd: haproxy:tcp: ...)",
        many=True,
    )
    tls: bool = setting(
        FLAG, False, "TLS on --port, with a certificate made at the first start if none is given"
    )
    tls_cert: Path | None = setting(PATH, None, "our certificate and its chain, PEM")
    tls_key: Path | None = setting(PATH, None, "our private key, PEM (the file of the certificate)")
    tls_ca: Path | None = setting(PATH, None, "certificates of those who certify our peers, PEM")
    tls_verify: str | None = setting(
        _kind_of_choice("none", "optional", "required"),
        None,
        "whether peers must have a certificate (required with --tls-ca, else none)",
    )
    tls_profile: str = setting(_kind_of_choice(*PROFILES), "8996", "TLS profile of PS3.15 Annex B")
    store: Path = setting(PATH, Path("dicom-store"), "the directory that received objects go to")
    state_dir: Path | None = setting(
        PATH, None, "the directory for what the server makes for itself ($STATE_DIRECTORY, or STORE/.state)"
    )
    accept_any_ae: bool = setting(
        FLAG, False, "accept associations from any AE title (so while no remote is known)"
    )
    known_ae_only: bool = setting(FLAG, False, "accept associations from configured remotes only")
    accept_any_called_ae: bool = setting(FLAG, False, "accept those who call another AE title than ours")
    allow_retrieve: str = setting(
        _kind_of_choice("known", "any"),
        "known",
        "who may query and retrieve: configured remotes, or anybody who may associate",
    )
    index_attribute: tuple[str, ...] = setting(
        INDEX_ATTRIBUTE,
        (),
        "a further attribute to index, by its keyword, as LEVEL:Keyword for another level than IMAGE",
        many=True,
    )
    accept_unknown_sop_classes: bool = setting(
        FLAG, False, "store objects of SOP classes that no table here knows"
    )
    no_implementation_version_name: bool = setting(
        FLAG, False, "do not send the implementation version name (item 55H)"
    )
    enforce_default_transfer_syntax: bool = setting(
        FLAG, False, "choose Implicit VR Little Endian, and refuse contexts that do not offer it"
    )
    prefer_transfer_syntax: tuple[str, ...] = setting(
        TRANSFER_SYNTAX, (), "choose this transfer syntax where it is offered, before others", many=True
    )
    max_pdu: int = setting(
        PDU_LENGTH,
        262144,
        "the longest P-DATA-TF to receive, in bytes",
    )
    max_associations: int = setting(_kind_of_number(1, 100000, "associations"), 200, "associations at a time")
    artim_timeout: float = setting(SECONDS, 30.0, "seconds for an A-ASSOCIATE-RQ, and for the peer to close")
    dimse_timeout: float = setting(SECONDS, 60.0, "seconds of silence inside a message")
    idle_timeout: float = setting(SECONDS, 600.0, "seconds of silence between messages")
    drain_timeout: float = setting(SECONDS, 30.0, "seconds that associations have to end after SIGTERM")
    durability: str = setting(
        _kind_of_choice(*(one.value for one in Durability)),
        Durability.STRICT.value,
        "strict: answer when the object is on stable storage; relaxed: when it is written",
    )
    on_duplicate: str = setting(
        _kind_of_choice(*(one.value for one in OnDuplicate)),
        OnDuplicate.REPLACE.value,
        "if the UID is stored with other bytes: replace (the earlier object goes to STORE/superseded), "
        "keep (the new one is answered with success and dropped) or refuse (0111H)",
    )

    def __attrs_post_init__(self) -> None:
        for fault in self._contradictions():
            raise ConfigError(fault)

    def _contradictions(self) -> list[str]:
        """What does not go together, in words."""
        only_listen = self.port is None and bool(self.listen)
        tls_files = (self.tls_cert, self.tls_key, self.tls_ca, self.tls_verify)
        refused = PROFILES[self.tls_profile].refused
        rules = {
            "--accept-any-ae and --known-ae-only contradict each other": self.accept_any_ae
            and self.known_ae_only,
            "--tls is for --port; in --listen say ssl:": self.tls and only_listen,
            "--interface is for --port; in --listen say tcp:PORT:interface=ADDRESS": bool(self.interface)
            and only_listen,
            "--tls-key needs --tls-cert": self.tls_key is not None and self.tls_cert is None,
            "--tls-verify needs the certificates to verify against: --tls-ca": self.tls_ca is None
            and self.tls_verify in ("optional", "required"),
            "--tls-cert, --tls-key, --tls-ca and --tls-verify need --tls": not self.tls
            and tls_files != (None, None, None, None),
            f"--tls-profile={self.tls_profile}: {refused}": bool(refused),
        }
        return [fault for fault, applies in rules.items() if applies]


@attrs.frozen(kw_only=True)
class Configuration:
    """All servers of one process, and whom they know."""

    servers: tuple[Server, ...]
    remotes: tuple[Remote, ...] = ()
    log_format: str = "text"

    def __attrs_post_init__(self) -> None:
        stores: dict[str, Server] = {}
        ports: set[tuple[str, int]] = set()
        for server in self.servers:
            place = server.interface, server.port or 0
            if place[1] and place in ports:
                raise ConfigError(f"two servers listen on port {server.port}")
            ports.add(place)
            other = stores.setdefault(os.path.abspath(server.store), server)
            if other is not server and _of_the_store(other) != _of_the_store(server):
                raise ConfigError(
                    f"servers {other.aet} and {server.aet} share the store {server.store}, so --durability, "
                    "--on-duplicate and --index-attribute must be the same for both"
                )


def _of_the_store(server: Server) -> tuple[object, ...]:
    """What servers that share a store must agree on: it is kept, and indexed, in one way."""
    return server.durability, server.on_duplicate, Attributes(server.index_attribute).stored


LOG_FORMAT = _kind_of_choice("text", "json")


#: Settings of which one on the command line takes the place of all in the file.
_RIVALS = ({"port", "listen", "interface"}, {"accept_any_ae", "known_ae_only"})


def settings_of(table: type[Server] | type[Remote]) -> Mapping[str, attrs.Attribute[Any]]:
    """The settings of a table by their names as users write them, with dashes."""
    return {field.name.replace("_", "-"): field for field in attrs.fields(table)}


def configure(
    path: Path | None,
    options: Mapping[str, Any],
    remotes: tuple[Remote, ...] = (),
    log_format: str | None = None,
) -> Configuration:
    """The configuration of a file, if there is one, and of what the command line says, which wins.

    Keys of `options` are field names of `Server`. Top-level keys of the file are for all its servers.
    Raises `ConfigError`.
    """
    document = {} if path is None else _read(path)
    origin = "" if path is None else f"{path}: "
    tables = _tables(document.pop("server", []), origin, "server")
    known = _tables(document.pop("remote", []), origin, "remote")
    chosen_format = document.pop("log-format", "text")
    for given, where in ((chosen_format, origin), (log_format or chosen_format, "--")):
        try:
            LOG_FORMAT.check(given)
        except ValueError:
            raise ConfigError(f"{where}log-format takes {LOG_FORMAT.takes}, not {given!r}") from None
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
        servers.append(_make(Server, values, _dashed, where, options))
    file_remotes = []
    for number, table in enumerate(known, 1):
        where = f"{origin}[[remote]] {number}: "
        values = _fields(Remote, table, where)
        if "aet" not in values:
            raise ConfigError(f"{where}aet is missing")
        file_remotes.append(_make(Remote, values, _dashed, where))
    return Configuration(
        servers=tuple(servers),
        remotes=(*file_remotes, *remotes),
        log_format=log_format or chosen_format,
    )


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _read(path: Path) -> dict[str, Any]:
    try:
        return {_dashed(key): value for key, value in tomllib.loads(path.read_text("utf-8")).items()}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _tables(value: Any, origin: str, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ConfigError(f"{origin}{name} takes tables, written [[{name}]]")
    return value


def _fields(table: type[Server] | type[Remote], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys of a TOML table as field names."""
    known = settings_of(table)
    fields = {}
    for key, value in values.items():
        field = known.get(_dashed(key))
        if field is None:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}unknown key {key!r}{hint}")
        fields[field.name] = value
    return fields


def _make(
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
