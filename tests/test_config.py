"""What can be set: defaults, TOML, what wins over what, and faults that name file, table and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.config import Configuration, Server
from dicomtw.configure import configure
from dicomtw.security.remote import Remote, parse_peer, parse_remote
from dicomtw.settings import ConfigError, settings_of

IVR = uids.IMPLICIT_VR_LITTLE_ENDIAN
EVR = uids.EXPLICIT_VR_LITTLE_ENDIAN

#: A file that sets everything there is, and what it means.
EVERYTHING = f"""
log-format = "json"
workers = 2

[[server]]
port = 11112
aet = "ARCHIVE"
interface = "127.0.0.1"
listen = ["tcp:104", "unix:/run/dicom.sock"]
tls = true
tls-cert = "cert.pem"
tls-key = "key.pem"
tls-ca = "ca.pem"
tls-crl = "crl.pem"
tls-verify = "optional"
tls-profile = "8996-mod"
store = "/srv/dicom"
state-dir = "/var/lib/dicom"
accept-any-ae = true
accept-any-called-ae = true
networks = ["192.0.2.0/24", "2001:db8::7"]
associations-per-minute-per-host = 1000
failed-associations-per-minute-per-host = 10
allow-retrieve = "any"
auth = ["scrypt:/etc/dicomtw/passwd", "unix"]
user-identity = "required"
auth-without-tls = true
index-attribute = ["KVP", "SERIES:ConvolutionKernel"]
accept-unknown-sop-classes = true
no-implementation-version-name = true
enforce-default-transfer-syntax = true
prefer-transfer-syntax = ["{EVR}", "{IVR}"]
max-pdu = 16384
max-associations = 5
max-associations-per-host = 2
max-connections = 40
max-connections-per-host = 10
max-object-size = 100
min-free-space = 50
max-matches = 1000
query-timeout = 5
max-sub-operations = 2000
max-moves = 3
artim-timeout = 1.5
dimse-timeout = 2
idle-timeout = 3
drain-timeout = 4
durability = "relaxed"
on-duplicate = "keep"
audit = "tls:log.example"
audit-ca = "log-ca.pem"
audit-cert = "log-cert.pem"
audit-key = "log-key.pem"
audit-required = true

[[remote]]
aet = "CT1"
host = "ct.example"
port = 104
tls = true
check-host = true
no-implementation-version-name = true
enforce-default-transfer-syntax = true
"""
SERVER = Server(
    port=11112,
    aet="ARCHIVE",
    interface="127.0.0.1",
    listen=("tcp:104", "unix:/run/dicom.sock"),
    tls=True,
    tls_cert="cert.pem",
    tls_key="key.pem",
    tls_ca="ca.pem",
    tls_crl="crl.pem",
    tls_verify="optional",
    tls_profile="8996-mod",
    store="/srv/dicom",
    state_dir="/var/lib/dicom",
    accept_any_ae=True,
    accept_any_called_ae=True,
    networks=("192.0.2.0/24", "2001:db8::7"),
    associations_per_minute_per_host=1000,
    failed_associations_per_minute_per_host=10,
    allow_retrieve="any",
    auth=("scrypt:/etc/dicomtw/passwd", "unix"),
    user_identity="required",
    auth_without_tls=True,
    index_attribute=("KVP", "SERIES:ConvolutionKernel"),
    accept_unknown_sop_classes=True,
    no_implementation_version_name=True,
    enforce_default_transfer_syntax=True,
    prefer_transfer_syntax=(EVR, IVR),
    max_pdu=16384,
    max_associations=5,
    max_associations_per_host=2,
    max_connections=40,
    max_connections_per_host=10,
    max_object_size=100,
    min_free_space=50,
    max_matches=1000,
    query_timeout=5.0,
    max_sub_operations=2000,
    max_moves=3,
    artim_timeout=1.5,
    dimse_timeout=2.0,
    idle_timeout=3.0,
    drain_timeout=4.0,
    durability="relaxed",
    on_duplicate="keep",
    audit="tls:log.example",
    audit_ca="log-ca.pem",
    audit_cert="log-cert.pem",
    audit_key="log-key.pem",
    audit_required=True,
)
REMOTE = Remote(
    aet="CT1",
    host="ct.example",
    port=104,
    tls=True,
    check_host=True,
    no_implementation_version_name=True,
    enforce_default_transfer_syntax=True,
)


class ConfigTestCase(SynchronousTestCase):
    def file(self, text: str | bytes) -> Path:
        path = Path(self.mktemp())
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def configured(self, text: str, **options: Any) -> Configuration:
        """The configuration of a file with this text, and of these options."""
        return configure(self.file(text), options)

    def fault(self, text: str | bytes, options: dict[str, Any] | None = None) -> str:
        """The fault of a file with this text; its path, which it begins with, is cut off."""
        path = self.file(text)
        said = str(self.assertRaises(ConfigError, configure, path, options or {}))
        self.assertEqual(said.splitlines(), [said], text)
        self.assertTrue(said.startswith((f"{path}: ", "--")), f"{text!r}: {said}")
        return said.removeprefix(f"{path}: ")


class ValueTests(ConfigTestCase):
    def test_defaults(self) -> None:
        """The defaults are the contract's."""
        (server,) = configure(None, {}).servers
        self.assertEqual(
            attrs.asdict(server),
            {
                "port": 4030,
                "aet": "DICOMTW",
                "interface": "",
                "listen": (),
                "tls": False,
                "tls_cert": None,
                "tls_key": None,
                "tls_ca": None,
                "tls_crl": None,
                "tls_verify": None,
                "tls_profile": "8996",
                "store": Path("dicom-store"),
                "state_dir": None,
                "accept_any_ae": False,
                "known_ae_only": False,
                "accept_any_called_ae": False,
                "networks": (),
                "associations_per_minute_per_host": 0,
                "failed_associations_per_minute_per_host": 600,
                "allow_retrieve": "known",
                "auth": (),
                "user_identity": None,
                "auth_without_tls": False,
                "index_attribute": (),
                "accept_unknown_sop_classes": False,
                "no_implementation_version_name": False,
                "enforce_default_transfer_syntax": False,
                "prefer_transfer_syntax": (),
                "max_pdu": 262144,
                "max_associations": 200,
                "max_associations_per_host": 0,
                "max_connections": 0,
                "max_connections_per_host": 0,
                "max_object_size": 4096,
                "min_free_space": None,
                "max_matches": 0,
                "query_timeout": 30.0,
                "max_sub_operations": 1_000_000,
                "max_moves": 64,
                "artim_timeout": 30.0,
                "dimse_timeout": 60.0,
                "idle_timeout": 600.0,
                "drain_timeout": 30.0,
                "durability": "strict",
                "on_duplicate": "replace",
                "audit": None,
                "audit_ca": None,
                "audit_cert": None,
                "audit_key": None,
                "audit_required": False,
            },
        )
        self.assertEqual(configure(None, {}), Configuration(servers=(Server(port=4030),)))

    def test_everything(self) -> None:
        """Everything can be set in a file, and the file of the test sets everything."""
        configuration = self.configured(EVERYTHING)
        expected = Configuration(servers=(SERVER,), remotes=(REMOTE,), log_format="json", workers=2)
        self.assertEqual(configuration, expected)
        unset = [name for name in settings_of(Server) if f"\n{name} = " not in EVERYTHING]
        self.assertEqual(unset, ["known-ae-only"], "it contradicts accept-any-ae")
        self.assertTrue(self.configured("known-ae-only = true").servers[0].known_ae_only)

    def test_remote(self) -> None:
        """What a remote may do, and how it is connected to, is set in a file; it may do all by default."""
        text = """
            [[remote]]
            aet = "WS"
            host = "ws.example"
            port = 104
            tls = true
            tls-ca = "ca.pem"
            tls-cert = "cert.pem"
            tls-key = "key.pem"
            tls-crl = "crl.pem"
            tls-sha256 = [
              "AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB"
            ]
            user = "archive"
            password-file = "passcode"
            operations = ["echo", "move"]
            retries = 3
            retry-delay = 0.5
            """
        (remote,) = self.configured(text).remotes
        expected = Remote(
            aet="WS",
            host="ws.example",
            port=104,
            tls=True,
            tls_ca="ca.pem",
            tls_cert="cert.pem",
            tls_key="key.pem",
            tls_crl="crl.pem",
            tls_sha256=["abababababababababababababababababababababababababababababababab"],
            user="archive",
            password_file="passcode",
            operations=("echo", "move"),
            retries=3,
            retry_delay=0.5,
        )
        self.assertEqual(remote, expected)
        self.assertEqual(Remote(aet="WS").operations, ("echo", "store", "find", "get", "move"))

    def test_remote_faults(self) -> None:
        """What does not go together, or is no operation, is one line."""
        cases = {
            "operations = ['store', 'query']": "operations takes a list of values, each one of echo, store, "
            "find, get, move, not ['store', 'query']",
            "tls-ca = 'ca.pem'": "tls-ca, tls-cert and tls-key need tls",
            "tls = true\ntls-key = 'key.pem'": "tls-key needs tls-cert",
            f"tls-sha256 = ['{'0' * 64}']": "tls-sha256 needs tls",
            "tls = true\ntls-sha256 = ['abc']": "tls-sha256 takes a list of values, each a SHA-256 "
            "fingerprint: 64 hex digits, with or without colons, not ['abc']",
            "password-file = 'p'": "password-file needs user",
            "user = 'a'\npassword-file = 'p'\ntls = true": "password-file needs tls, and tls-ca or "
            "tls-sha256: others would get the passcode",
            "retries = -1": "retries takes a whole number of times from 0 to 100, not -1",
        }
        for text, fault in cases.items():
            said = self.fault(f"[[remote]]\naet = 'WS'\nhost = 'h'\n{text}")
            self.assertEqual(said, f"[[remote]] 1: {fault}")

    def test_index_attribute(self) -> None:
        """What is to be indexed is a keyword of the standard's."""
        self.assertIn("index-attribute takes", self.fault("index-attribute = ['KvPeak']"))

    def test_underscores(self) -> None:
        """Keys may be written with underscores."""
        remote = "[[remote]]\naet = 'A'\nhost = 'h'\ncheck_host = true"
        configuration = self.configured(f"log_format = 'json'\n[[server]]\nmax_pdu = 4096\n{remote}")
        self.assertEqual(configuration.log_format, "json")
        self.assertEqual(configuration.servers[0].max_pdu, 4096)
        self.assertTrue(configuration.remotes[0].check_host)

    def test_trimmed(self) -> None:
        """AE titles are trimmed, as they are when they are compared."""
        self.assertEqual(self.configured("aet = ' P MOD '").servers[0].aet, "P MOD")

    def test_port(self) -> None:
        """A server listens on 4030 unless it is told where."""
        for text, port, listen in (
            ("", 4030, ()),
            ("port = 104", 104, ()),
            ("port = 0", 0, ()),
            ("listen = ['tcp:104']", None, ("tcp:104",)),
            ("listen = ['tcp:104']\nport = 11112", 11112, ("tcp:104",)),
        ):
            (server,) = self.configured(text).servers
            self.assertEqual((server.port, server.listen), (port, listen), text)

    def test_listens_somewhere(self) -> None:
        """No server listens nowhere: an empty list of endpoints is none given."""
        (server,) = self.configured("listen = []").servers
        self.assertEqual((server.port, server.listen), (4030, ()))

    def test_empty_lists(self) -> None:
        """An empty list is refused that looks as if it allowed nobody; one of no operations allows none."""
        harmless = ["listen", "index-attribute", "prefer-transfer-syntax"]
        accepted = []
        for table, title in ((Server, "[[server]]"), (Remote, "[[remote]]")):
            for name, one in settings_of(table).items():
                if one.metadata["many"] and name not in (*harmless, "operations"):
                    said = self.fault(f"{title}\naet = 'A'\n{name} = []")
                    takes = one.metadata["kind"].takes
                    fault = f"{title} 1: {name} takes at least one value, each {takes}, not an empty list"
                    self.assertEqual(said, fault)
                elif one.metadata["many"]:
                    accepted.append(name)
        self.assertEqual(accepted, [*harmless, "operations"])
        for name in harmless:
            self.assertEqual(self.configured(f"{name} = []"), configure(None, {}))
        (remote,) = self.configured("[[remote]]\naet = 'A'\noperations = []").remotes
        self.assertEqual(remote.operations, ())

    def test_in_code(self) -> None:
        """In code, as in a .tac file, paths may be given as what they are."""
        self.assertEqual(Server(store=Path("/srv/dicom")), Server(store="/srv/dicom"))

    def test_frozen(self) -> None:
        """A configuration does not change."""
        configuration = configure(None, {})
        self.assertRaises(attrs.exceptions.FrozenInstanceError, setattr, configuration, "log_format", "json")
        self.assertRaises(attrs.exceptions.FrozenInstanceError, setattr, configuration.servers[0], "port", 1)

    def test_settings_explain_themselves(self) -> None:
        """Every setting has a meaning and says what it takes: the documentation is made of them."""
        for table in (Server, Remote):
            for name, setting in settings_of(table).items():
                self.assertTrue(setting.metadata["meaning"], name)
                self.assertTrue(setting.metadata["kind"].takes, name)
                self.assertNotIn("_", name)


class PrecedenceTests(ConfigTestCase):
    SEVERAL = """
        aet = "COMMON"
        dimse-timeout = 5
        [[server]]
        port = 104
        [[server]]
        port = 105
        aet = "SECOND"
        store = "second"
        """

    def test_several_servers(self) -> None:
        """Keys above the tables are for all servers, and each table's own win over them."""
        first, second = self.configured(self.SEVERAL).servers
        self.assertEqual((first.aet, first.port, first.dimse_timeout), ("COMMON", 104, 5.0))
        self.assertEqual((second.aet, second.port, second.dimse_timeout), ("SECOND", 105, 5.0))
        self.assertEqual(second.store, Path("second"))

    def test_command_line_wins(self) -> None:
        """The command line wins over the file, for every server in it."""
        servers = self.configured(self.SEVERAL, aet="MINE", dimse_timeout=7.0).servers
        self.assertEqual([server.aet for server in servers], ["MINE", "MINE"])
        self.assertEqual([server.dimse_timeout for server in servers], [7.0, 7.0])
        (server,) = self.configured("port = 104\naet = 'FILE'", port=105).servers
        self.assertEqual((server.port, server.aet), (105, "FILE"))

    def test_command_line_takes_nothing_else_away(self) -> None:
        """What the command line does not name is as the file has it: a listener with TLS above all."""
        listen = "listen = ['dicomtls:2762:cert=c']"
        (server,) = self.configured(listen, port=105).servers
        self.assertEqual((server.port, server.listen), (105, ("dicomtls:2762:cert=c",)))
        (server,) = self.configured("port = 104\ninterface = '::1'", interface="::2").servers
        self.assertEqual((server.port, server.interface), (104, "::2"))
        (server,) = self.configured("port = 104\ntls = true", listen=("tcp:1",)).servers
        self.assertEqual((server.port, server.tls, server.listen), (104, True, ("tcp:1",)))
        fault = self.assertRaises(ConfigError, configure, self.file(listen), {"interface": "127.0.0.1"})
        self.assertIn("--interface is for --port", str(fault))

    def test_what_one_server_has(self) -> None:
        """What two servers cannot share is not taken from the command line for several."""
        for option, value in (
            ("port", 1),
            ("listen", ("tcp:1",)),
            ("store", Path("x")),
            ("state_dir", Path("x")),
        ):
            path = self.file(self.SEVERAL)
            fault = self.assertRaises(ConfigError, configure, path, {option: value})
            name = option.replace("_", "-")
            self.assertEqual(str(fault), f"--{name} cannot be for each of the 2 servers in {path}")

    def test_remotes_add_up(self) -> None:
        """Remotes of the file and of the command line are known both."""
        mine = Remote(aet="MINE")
        configuration = configure(self.file("[[remote]]\naet = 'FILE'\n"), {}, (mine,))
        self.assertEqual(configuration.remotes, (Remote(aet="FILE"), mine))

    def test_log_format(self) -> None:
        """The command line's log format wins, and without any it is text."""
        for text, option, expected in (
            ("", None, "text"),
            ("log-format = 'json'", None, "json"),
            ("log-format = 'json'", "text", "text"),
            ("", "json", "json"),
        ):
            self.assertEqual(configure(self.file(text), {}, (), option).log_format, expected)

    def test_workers(self) -> None:
        """So does its number of processes, and without any it is one."""
        for text, option, expected in (("", None, 1), ("workers = 3", None, 3), ("workers = 3", 2, 2)):
            self.assertEqual(configure(self.file(text), {}, (), None, option).workers, expected)


class FaultTests(ConfigTestCase):
    def test_files(self) -> None:
        """A file that is absent, no file, no text or no TOML is named with what is wrong."""
        here = Path(self.mktemp())
        here.mkdir()
        for path, words in (
            (here / "absent.toml", "No such file or directory"),
            (here, "Is a directory"),
            (self.file("port = = 1"), "line 1"),
            (self.file("port = 1\nport = 2"), "overwrite"),
            (self.file(b"aet = '\xff'"), "utf-8"),
        ):
            said = str(self.assertRaises(ConfigError, configure, path, {}))
            self.assertTrue(said.startswith(f"{path}: "), said)
            self.assertIn(words, said)
            self.assertEqual(len(said.splitlines()), 1)

    def test_unknown_keys(self) -> None:
        """An unknown key is named with its table, and with the key that was meant, if one is near."""
        for text, said in (
            ("prot = 1", "unknown key 'prot'; did you mean 'port'?"),
            ("max_asociations = 1", "unknown key 'max-asociations'; did you mean 'max-associations'?"),
            ("[[server]]\n[[server]]\nstor = 'x'", "[[server]] 2: unknown key 'stor'; did you mean 'store'?"),
            ("[[remote]]\naet = 'A'\nhots = 'x'", "[[remote]] 1: unknown key 'hots'; did you mean 'host'?"),
            ("xyzzy = 1", "unknown key 'xyzzy'"),
            ("[[remote]]\naet = 'A'\nstore = 'x'", "[[remote]] 1: unknown key 'store'"),
            ("[servers]\nport = 1", "unknown key 'servers'"),
        ):
            self.assertTrue(self.fault(text).startswith(said), self.fault(text))

    def test_tables(self) -> None:
        """Servers and remotes are lists of tables."""
        for text, said in (
            ("[server]\nport = 1", "server takes tables, written [[server]]"),
            ("server = 1", "server takes tables, written [[server]]"),
            ("server = ['x']", "server takes tables, written [[server]]"),
            ("[remote]\naet = 'A'", "remote takes tables, written [[remote]]"),
            ("[[remote]]\nhost = 'h'", "[[remote]] 1: aet is missing"),
        ):
            self.assertEqual(self.fault(text), said)

    def test_bad_values(self) -> None:
        """A bad value is named with file, table and key, what it is and what the key takes."""
        title, seconds = "an AE title", "a number of seconds from 0.1 to 1000000"
        cases: list[tuple[str, list[str], str]] = [
            ("port", ["-1", "65536", "'4030'", "4030.5", "true", "[1]"], "a port number"),
            ("aet", ["''", "' '", "1", "'12345678901234567'", '"A\\u0001"', '"\\u00dc"', "'A\\\\B'"], title),
            ("interface", ["'localhost'", "'300.1.1.1'", "1"], "an IP address"),
            ("listen", ["'tcp:1'", "1", "[1]", "['']", "{}"], "a list of values, each a Twisted"),
            ("tls", ["1", "'yes'"], "true or false"),
            ("tls-cert", ["1", "''", '"a\\u0000b"'], "a path"),
            ("tls-verify", ["'maybe'", "true"], "one of none, optional, required"),
            ("tls-profile", ["'b12'", "8996"], "one of 8996, 8996-mod, bcp195-ex"),
            ("store", ["1", "''", "[]"], "a path"),
            ("accept-any-ae", ["'true'", "1", "[]"], "true or false"),
            ("prefer-transfer-syntax", [f"'{IVR}'", "['1.2.3']", "[1]"], "the UID of a transfer syntax"),
            ("max-pdu", ["1", "4095", "-1", "4294967296", "'16384'", "true", "16384.0"], "a number of bytes"),
            ("max-associations", ["0", "100001", "'5'", "true", "2.5"], "a whole number of associations"),
            (
                "max-connections",
                ["-1", "1000001", "'5'", "true", "2.5"],
                "a whole number up to 1000000, or 0",
            ),
            ("max-object-size", ["-1", "'5'", "true", "2.5"], "a whole number of MiB"),
            ("query-timeout", ["0", "nan"], seconds),
            ("artim-timeout", ["0", "0.05", "-1", "1000001", "'30'", "true", "nan", "inf"], seconds),
            ("dimse-timeout", ["0", "nan"], seconds),
            ("idle-timeout", ["0", "nan"], seconds),
            ("drain-timeout", ["0", "nan"], seconds),
            ("durability", ["'fast'", "1"], "one of strict, relaxed"),
            ("on-duplicate", ["'both'", "1"], "one of replace, keep, refuse"),
            (
                "audit",
                ["'log'", "'udp:'", "'udp:a:0'", "'tls:a:b'", "'tls:[::1'", "'file:'", "'tcp:a:1'", "1"],
                "file:PATH, udp:HOST[:PORT] or tls:HOST[:PORT]",
            ),
        ]
        for key, values, takes in cases:
            for value in values:
                said = self.fault(f"[[server]]\n[[server]]\n{key} = {value}")
                self.assertIn(f"[[server]] 2: {key} takes ", said, value)
                self.assertIn(takes, said, value)
                self.assertIn(", not ", said, value)
        for remote in (
            "aet = 1",
            "aet = 'A'\nport = -1",
            "aet = 'A'\nport = 'x'",
            "aet = 'A'\ntls = 1",
            "aet = 'A'\nhost = 1",
        ):
            key = remote.splitlines()[-1].partition(" ")[0]
            said = self.fault(f"[[remote]]\naet = 'B'\n[[remote]]\n{remote}")
            self.assertIn(f"[[remote]] 2: {key} takes ", said, remote)

    def test_values_like_the_default(self) -> None:
        """A value of the wrong kind is refused, too, where Python finds it equal to the default."""
        for key, value in (
            ("tls", "0"),
            ("accept-any-ae", "0.0"),
            ("max-pdu", "262144.0"),
            ("max-associations", "200.0"),
        ):
            path = self.file(f"{key} = {value}")
            fault = self.assertRaises(ConfigError, configure, path, {})
            self.assertIn(f"{key} takes ", str(fault))

    def test_empty_title_of_a_remote(self) -> None:
        """A remote has an AE title, not an empty one."""
        self.assertIn("[[remote]] 1: aet takes an AE title", self.fault("[[remote]]\naet = ''"))
        self.assertRaises(ConfigError, parse_remote, "@ct.example:104")

    def test_log_format(self) -> None:
        """A bad log format is named with the file, or with the option if that is where it stands."""
        self.assertTrue(self.fault("workers = 0").startswith("workers takes a whole number of processes"))
        said = "log-format takes one of text, json"
        self.assertTrue(self.fault("log-format = 'xml'").startswith(said))
        path = self.file("port = 104")
        fault = self.assertRaises(ConfigError, configure, path, {}, (), "xml")
        self.assertTrue(str(fault).startswith(f"--{said}"), str(fault))

    def test_options(self) -> None:
        """A fault of the command line's is the option's, not the file's."""
        self.assertTrue(self.fault("aet = 'GOOD'", {"aet": "B\\AD"}).startswith("--aet takes an AE title"))

    def test_contradictions(self) -> None:
        """What does not go together is said in words that name the settings."""
        cases = {
            "accept-any-ae = true\nknown-ae-only = true": "--accept-any-ae and --known-ae-only contradict",
            "tls = true\nlisten = ['tcp:1']": "--tls is for --port; in --listen say dicomtls:",
            "interface = '::'\nlisten = ['tcp:1']": "--interface is for --port; in --listen say tcp:",
            "tls = true\ntls-key = 'k'": "--tls-key needs --tls-cert",
            "user-identity = 'required'": "--user-identity=optional and required need --auth",
            "user-identity = 'optional'": "--user-identity=optional and required need --auth",
            "auth = ['a:x']\nuser-identity = 'ignore'": "--auth is of no use with --user-identity=ignore",
            "auth-without-tls = true": "--auth-without-tls needs --auth",
            "tls-profile = 'bcp195'": "--tls-profile needs --tls",
            "tls-profile = 'aes'\nlisten = ['dicomtls:1']": "in --listen say dicomtls:PORT:profile=NAME",
            "audit = 'tls:a'\naudit-key = 'k'": "--audit-key needs --audit-cert",
            "audit = 'udp:a'\naudit-ca = 'c'": "need --audit=tls:HOST",
            "audit-cert = 'c'": "need --audit=tls:HOST",
            "audit-required = true": "--audit-required needs --audit",
            "tls = true\ntls-verify = 'required'": "--tls-verify needs the certificates",
            "tls = true\ntls-verify = 'optional'": "--tls-verify needs the certificates",
            "tls = true\ntls-crl = 'c'": "--tls-crl needs the certificates",
            "tls = true\ntls-ca = 'c'\ntls-crl = 'c'\ntls-verify = 'none'": "--tls-crl is of no use",
            "tls-crl = 'c'": "need --tls",
            "tls-cert = 'c'": "need --tls",
            "tls-ca = 'c'": "need --tls",
            "tls-verify = 'none'": "need --tls",
            "tls = true\ntls-profile = 'basic'": "--tls-profile=basic: the Basic TLS profile",
        }
        for text, words in cases.items():
            self.assertIn(words, self.fault(text))
            self.assertTrue(self.fault(f"[[server]]\n{text}").startswith("[[server]] 1: "))
        for text in (
            "tls = true\ntls-verify = 'none'",
            "tls = true\ntls-ca = 'c'\ntls-verify = 'required'",
            "tls = true\nport = 1\nlisten = ['tcp:2']",
            "tls-profile = '8996'",
            "tls = true\ntls-profile = 'aes'",
            "user-identity = 'ignore'",
            "auth = ['unix']\nauth-without-tls = true",
        ):
            self.configured(text)

    def test_shared_state(self) -> None:
        """Servers that share a state directory, where audit messages wait, send these to one place."""
        text = "state-dir = 's'\n[[server]]\naet = 'A'\nport = 1\naudit = '{}'\n"
        text += "[[server]]\naet = 'B'\nport = 2\n"
        for one, other in (("udp:a", "udp:b"), ("tls:a", "tls:a'\naudit-ca = 'c")):
            said = self.assertRaises(ConfigError, self.configured, f"{text.format(one)}audit = '{other}'")
            self.assertIn("servers A and B share the state directory", str(said))
            self.assertIn("--audit-key must be the same for both", str(said))
            self.configured(f"{text.format(one)}audit = '{other}'\nstate-dir = 'another'")
        self.configured(text.format("udp:a"))
        self.configured(f"{text.format('udp:a')}audit = 'udp:a'\naudit-required = true")

    def test_shared_store(self) -> None:
        """Servers that share a store keep it, and index it, in one way, however they write that down."""
        for one, other in (
            ("durability = 'strict'", "durability = 'relaxed'"),
            ("on-duplicate = 'keep'", "on-duplicate = 'refuse'"),
            ("index-attribute = ['KVP']", ""),
            ("index-attribute = ['KVP']", "index-attribute = ['SERIES:KVP']"),
        ):
            text = f"[[server]]\nport = 1\naet = 'A'\n{one}\n[[server]]\nport = 2\naet = 'B'\n{other}\n"
            self.assertEqual(
                str(self.assertRaises(ConfigError, self.configured, text)),
                "servers A and B share the store dicom-store, so --durability, --on-duplicate and "
                "--index-attribute must be the same for both",
            )
            self.configured(text + "store = 'another'")
        same = "['KVP', 'ExposureTime']", "['IMAGE:ExposureTime', 'KVP', 'PatientID']"
        self.configured(
            "".join(f"[[server]]\nport = {n}\nindex-attribute = {one}\n" for n, one in enumerate(same, 1))
        )

    def test_host_check_needs_a_host(self) -> None:
        """A remote whose host is to be checked has one."""
        text = "[[remote]]\naet = 'A'\ncheck-host = true"
        self.assertEqual(self.fault(text), "[[remote]] 1: check-host needs the host")


class RemoteTests(SynchronousTestCase):
    def test_good(self) -> None:
        """``AET@HOST:PORT`` and flags; IPv6 addresses in brackets."""
        for text, remote in (
            ("CT1@ct.example:104", Remote(aet="CT1", host="ct.example", port=104)),
            ("CT 1@192.0.2.1:104", Remote(aet="CT 1", host="192.0.2.1", port=104)),
            ("A@B@192.0.2.1:104", Remote(aet="A@B", host="192.0.2.1", port=104)),
            ("CT1@[2001:db8::1]:104", Remote(aet="CT1", host="2001:db8::1", port=104)),
            ("CT1@h:104,tls", Remote(aet="CT1", host="h", port=104, tls=True)),
            ("CT1@h:104,check-host", Remote(aet="CT1", host="h", port=104, check_host=True)),
            (
                "CT1@h:104,no-version,default-transfer-syntax",
                Remote(
                    aet="CT1",
                    host="h",
                    port=104,
                    no_implementation_version_name=True,
                    enforce_default_transfer_syntax=True,
                ),
            ),
            (
                "CT1@h:104,no-implementation-version-name,enforce-default-transfer-syntax",
                Remote(
                    aet="CT1",
                    host="h",
                    port=104,
                    no_implementation_version_name=True,
                    enforce_default_transfer_syntax=True,
                ),
            ),
        ):
            self.assertEqual(parse_remote(text), remote)

    def test_bad(self) -> None:
        """All else is refused with what is wrong with it."""
        for text, words in (
            ("", "AET@HOST:PORT"),
            ("CT1", "AET@HOST:PORT"),
            ("CT1@h", "AET@HOST:PORT"),
            ("h:104", "AET@HOST:PORT"),
            ("CT1@:104", "AET@HOST:PORT"),
            ("CT1@h:", "AET@HOST:PORT"),
            ("CT1@h:x", "AET@HOST:PORT"),
            ("CT1@h:-1", "AET@HOST:PORT"),
            ("CT1@h:\u00b2", "AET@HOST:PORT"),
            ("CT1@h:65536", "a port number"),
            ("A\\B@h:104", "an AE title"),
            ("12345678901234567@h:104", "an AE title"),
            ("CT1@h:104,tsl", "takes the flags tls, check-host, no-version"),
            ("CT1@h:104,", "takes the flags"),
        ):
            said = str(self.assertRaises(ConfigError, parse_remote, text))
            self.assertIn(words, said, text)
            self.assertEqual(len(said.splitlines()), 1)

    def test_peers(self) -> None:
        """Who is called for is host and port, with or without a title; what looks like neither is none."""
        for text, place in (
            ("PACS@h:104", ("PACS", "h", 104)),
            ("h:104", ("ANY-SCP", "h", 104)),
            ("[2001:db8::1]:104", ("ANY-SCP", "2001:db8::1", 104)),
        ):
            peer = parse_peer(text)
            assert peer is not None
            self.assertEqual((peer.aet, peer.host, peer.port), place)
        self.assertEqual(parse_peer("h:104,tls"), Remote(aet="ANY-SCP", host="h", port=104, tls=True))
        for text in ("", "PACS", "h", "h:", "PACS@h", "tcp:h:104", "::1:104", "[h:104", "unix:/run/x"):
            self.assertIsNone(parse_peer(text), text)
        for text in ("h:0", "h:65536", "h:104,tsl", "A\\B@h:104"):
            self.assertRaises(ConfigError, parse_peer, text)
