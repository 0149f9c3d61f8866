"""What can be set: the servers of one process, as frozen attrs classes of settings.

`dicomtw.configure` makes a `Configuration` of a TOML file and the command line. Every fault is a
`ConfigError`, one line that names the file, the table and the key, or the option.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs

from dicomtw import uids
from dicomtw.security.addresses import NETWORK, Network
from dicomtw.security.audit.target import Target
from dicomtw.security.identity import Demand
from dicomtw.security.profiles import PROFILES
from dicomtw.security.remote import Remote
from dicomtw.security.tls import VERIFY, TLSFiles
from dicomtw.settings import (
    ADDRESS,
    AE_TITLE,
    COUNT,
    ENDPOINT,
    FLAG,
    MEBIBYTES,
    PATH,
    PDU_LENGTH,
    PORT,
    SECONDS,
    ConfigError,
    Kind,
    check_text,
    kind_of_choice,
    kind_of_number,
    setting,
)
from dicomtw.storage.directory import Durability, OnDuplicate
from dicomtw.storage.index.attributes import Attributes


def _check_index_attribute(value: Any) -> str:
    text = check_text(value)
    Attributes((text,))
    return text


def _check_transfer_syntax(value: Any) -> str:
    text = check_text(value)
    if text not in uids.TRANSFER_SYNTAXES:
        raise ValueError
    return text


def _check_target(value: Any) -> str:
    text = check_text(value)
    Target.parse(text)
    return text


AUDIT = Kind("file:PATH, udp:HOST[:PORT] or tls:HOST[:PORT]", _check_target)
INDEX_ATTRIBUTE = Kind("the keyword of an attribute, such as KVP or SERIES:KVP", _check_index_attribute)
TRANSFER_SYNTAX = Kind("the UID of a transfer syntax", _check_transfer_syntax)
CHECKER = Kind("a Twisted checker of users, such as scrypt:FILE", check_text)
LOG_FORMAT = kind_of_choice("text", "json")
WORKERS = kind_of_number(1, 64, "processes")


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
        may_be_empty=True,
    )
    tls: bool = setting(
        FLAG, False, "TLS on --port, with a certificate made at the first start if none is given"
    )
    tls_cert: Path | None = setting(PATH, None, "our certificate and its chain, PEM")
    tls_key: Path | None = setting(PATH, None, "our private key, PEM (the file of the certificate)")
    tls_ca: Path | None = setting(PATH, None, "certificates of those who certify our peers, PEM")
    tls_crl: Path | None = setting(
        PATH, None, "CRLs of those who certify our peers, PEM: who is revoked is turned away"
    )
    tls_verify: str | None = setting(
        kind_of_choice(*VERIFY),
        None,
        "whether peers must have a certificate (required with --tls-ca, else none)",
    )
    tls_profile: str = setting(kind_of_choice(*PROFILES), "8996", "TLS profile of PS3.15 Annex B")
    store: Path = setting(PATH, Path("dicom-store"), "the directory that received objects go to")
    state_dir: Path | None = setting(
        PATH, None, "the directory for what the server makes for itself ($STATE_DIRECTORY, or STORE/.state)"
    )
    accept_any_ae: bool = setting(
        FLAG, False, "accept associations from any AE title (so while no remote is known)"
    )
    known_ae_only: bool = setting(FLAG, False, "accept associations from configured remotes only")
    accept_any_called_ae: bool = setting(FLAG, False, "accept those who call another AE title than ours")
    networks: tuple[Network, ...] = setting(
        NETWORK,
        (),
        "speak with peers from these networks only, so with none on a unix: socket; without any with all",
        many=True,
    )
    associations_per_minute_per_host: int = setting(
        kind_of_number(0, 1000000, "associations"),
        0,
        "associations that one host, or the /64 of an IPv6 address, may ask for in a minute; 0: no limit",
    )
    failed_associations_per_minute_per_host: int = setting(
        kind_of_number(0, 1000000, "associations"),
        600,
        "associations for which one host may be rejected for good in a minute, before it is put off "
        "whatever it asks; 0: no limit",
    )
    allow_retrieve: str = setting(
        kind_of_choice("known", "any"),
        "known",
        "who may query and retrieve: configured remotes, or anybody who may associate",
    )
    auth: tuple[str, ...] = setting(
        CHECKER,
        (),
        "what checks the users that requestors name, by any Twisted checker (scrypt:FILE file: unix ...)",
        many=True,
    )
    user_identity: str | None = setting(
        kind_of_choice(*(one.value for one in Demand)),
        None,
        "what to do about user identities: ignore them, check those that are given (optional), or reject "
        "who gives none (required) (optional with --auth, else ignore)",
    )
    auth_without_tls: bool = setting(
        FLAG, False, "take passcodes, SAML assertions and tokens also where others can overhear them"
    )
    index_attribute: tuple[str, ...] = setting(
        INDEX_ATTRIBUTE,
        (),
        "a further attribute to index, by its keyword, as LEVEL:Keyword for another level than IMAGE",
        many=True,
        may_be_empty=True,
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
        TRANSFER_SYNTAX,
        (),
        "choose this transfer syntax where it is offered, before others",
        many=True,
        may_be_empty=True,
    )
    max_pdu: int = setting(
        PDU_LENGTH,
        262144,
        "the longest P-DATA-TF to receive, in bytes",
    )
    max_associations: int = setting(kind_of_number(1, 100000, "associations"), 200, "associations at a time")
    max_associations_per_host: int = setting(
        COUNT, 0, "associations of one address at a time; 0: no limit but --max-associations"
    )
    max_connections: int = setting(
        COUNT, 0, "connections without an association at a time; 0: 64 and two for each association"
    )
    max_connections_per_host: int = setting(
        COUNT, 0, "connections without an association of one address at a time; 0: half of --max-connections"
    )
    max_object_size: int = setting(
        MEBIBYTES, 4096, "the largest data set to store, in MiB; 0: no limit (A700H past it)"
    )
    min_free_space: int | None = setting(
        MEBIBYTES,
        None,
        "objects are refused (A700H) while the store has less free space, in MiB (256, or a twentieth of its "
        "file system where that is less)",
    )
    max_matches: int = setting(COUNT, 0, "matches that a C-FIND is answered with, then A700H; 0: no limit")
    query_timeout: float = setting(
        SECONDS, 30.0, "seconds that one query may keep the index busy, however long its answers take"
    )
    max_sub_operations: int = setting(
        COUNT, 1_000_000, "objects that one C-MOVE or C-GET may be about; 0: no limit"
    )
    max_moves: int = setting(COUNT, 64, "C-MOVEs that are performed at a time, A702H for more; 0: no limit")
    artim_timeout: float = setting(SECONDS, 30.0, "seconds for an A-ASSOCIATE-RQ, and for the peer to close")
    dimse_timeout: float = setting(SECONDS, 60.0, "seconds of silence inside a message")
    idle_timeout: float = setting(SECONDS, 600.0, "seconds of silence between messages")
    drain_timeout: float = setting(SECONDS, 30.0, "seconds that associations have to end after SIGTERM")
    durability: str = setting(
        kind_of_choice(*(one.value for one in Durability)),
        Durability.STRICT.value,
        "strict: answer when the object is on stable storage; relaxed: when it is written",
    )
    on_duplicate: str = setting(
        kind_of_choice(*(one.value for one in OnDuplicate)),
        OnDuplicate.REPLACE.value,
        "if the UID is stored with other bytes: replace (the earlier object goes to STORE/superseded), "
        "keep (the new one is answered with success and dropped) or refuse (0111H)",
    )
    audit: str | None = setting(
        AUDIT, None, "where audit messages go (PS3.15 A.5): a file, or a syslog collector by UDP or TLS"
    )
    audit_ca: Path | None = setting(
        PATH, None, "certificates of those who certify the collector, PEM (those this machine trusts)"
    )
    audit_cert: Path | None = setting(PATH, None, "our certificate for the collector, PEM")
    audit_key: Path | None = setting(
        PATH, None, "the private key of that certificate, PEM (the file of the certificate)"
    )
    audit_required: bool = setting(
        FLAG, False, "reject associations, for the time being, while audit messages cannot be recorded"
    )

    @property
    def demand(self) -> Demand:
        """What it does about user identities."""
        return Demand(self.user_identity or ("optional" if self.auth else "ignore"))

    def __attrs_post_init__(self) -> None:
        for fault in self._contradictions():
            raise ConfigError(fault)

    @property
    def tls_files(self) -> TLSFiles:
        """What TLS on the port is made of."""
        return TLSFiles(
            cert=self.tls_cert,
            key=self.tls_key,
            ca=self.tls_ca,
            crl=self.tls_crl,
            verify=self.tls_verify or "",
            profile=self.tls_profile,
        )

    def _contradictions(self) -> list[str]:
        """What does not go together, in words."""
        only_listen = self.port is None and bool(self.listen)
        refused = PROFILES[self.tls_profile].refused
        rules = {
            "--accept-any-ae and --known-ae-only contradict each other": self.accept_any_ae
            and self.known_ae_only,
            "--tls is for --port; in --listen say dicomtls:": self.tls and only_listen,
            "--interface is for --port; in --listen say tcp:PORT:interface=ADDRESS": bool(self.interface)
            and only_listen,
            "--user-identity=optional and required need --auth": not self.auth
            and self.user_identity in (Demand.OPTIONAL.value, Demand.REQUIRED.value),
            "--auth is of no use with --user-identity=ignore": bool(self.auth)
            and self.user_identity == Demand.IGNORE.value,
            "--auth-without-tls needs --auth": self.auth_without_tls and not self.auth,
            "--tls-profile needs --tls; in --listen say dicomtls:PORT:profile=NAME": not self.tls
            and self.tls_profile != attrs.fields(Server).tls_profile.default,
            "--tls-cert, --tls-key, --tls-ca, --tls-crl and --tls-verify need --tls": not self.tls
            and (bool(self.tls_files.paths()) or self.tls_verify is not None),
            f"--tls-profile={self.tls_profile}: {refused}": bool(refused),
            "--audit-key needs --audit-cert": self.audit_key is not None and self.audit_cert is None,
            "--audit-ca, --audit-cert and --audit-key need --audit=tls:HOST": (
                (self.audit_ca, self.audit_cert, self.audit_key) != (None, None, None)
                and not (self.audit or "").startswith("tls:")
            ),
            "--audit-required needs --audit": self.audit_required and self.audit is None,
        }
        return [fault for fault, applies in rules.items() if applies] + self.tls_files.contradictions()


@attrs.frozen(kw_only=True)
class Configuration:
    """All servers of one process, and whom they know."""

    servers: tuple[Server, ...]
    remotes: tuple[Remote, ...] = ()
    log_format: str = "text"
    #: Processes that share the listeners, the stores and the limits.
    workers: int = 1

    def __attrs_post_init__(self) -> None:
        known = {remote.aet for remote in self.remotes}
        for remote in self.remotes:
            for title in remote.destinations:
                if title not in known:
                    raise ConfigError(f"remote {remote.aet}: destination {title} is no configured remote")
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
        self._check_audit()

    def _check_audit(self) -> None:
        queues: dict[str, Server] = {}
        for server in self.servers:
            if server.audit is not None:
                directory = os.path.abspath(state_directory(server))
                other = queues.setdefault(directory, server)
                if _of_the_queue(other) != _of_the_queue(server):
                    raise ConfigError(
                        f"servers {other.aet} and {server.aet} share the state directory {directory}, so "
                        "--audit, --audit-ca, --audit-cert and --audit-key must be the same for both"
                    )


def state_directory(server: Server) -> Path:
    """Where a server keeps what it makes for itself."""
    if server.state_dir is not None:
        return server.state_dir
    from_systemd = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(from_systemd) if from_systemd else server.store / ".state"


def _of_the_queue(server: Server) -> tuple[object, ...]:
    """What servers that share a queue of audit messages must agree on: where these go."""
    return server.audit, server.audit_ca, server.audit_cert, server.audit_key


def _of_the_store(server: Server) -> tuple[object, ...]:
    """What servers that share a store must agree on: it is kept, and indexed, in one way."""
    return server.durability, server.on_duplicate, Attributes(server.index_attribute).stored
