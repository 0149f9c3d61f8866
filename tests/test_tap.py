"""The command line of ``twistd dicom``: as users write it, and what they are told when it is wrong."""

from __future__ import annotations

import io
import os
import pwd
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import check, tap, uids
from dicomtw.config import Configuration, Server
from dicomtw.configure import configure
from dicomtw.jsonlog import file_log_observer
from dicomtw.security.remote import Remote
from dicomtw.service import Process, StartError
from dicomtw.settings import FLAG, settings_of
from dicomtw.tap import Options, makeService
from tests.security.test_tls import identity
from tests.test_config import EVERYTHING, REMOTE, SERVER

IVR = uids.IMPLICIT_VR_LITTLE_ENDIAN
EVR = uids.EXPLICIT_VR_LITTLE_ENDIAN

#: The command line that says what `EVERYTHING` says in TOML.
EVERY_OPTION = [
    "--port=11112",
    "--aet=ARCHIVE",
    "--interface=127.0.0.1",
    "--listen=tcp:104",
    "--listen=unix:/run/dicom.sock",
    "--tls",
    "--tls-cert=cert.pem",
    "--tls-key=key.pem",
    "--tls-ca=ca.pem",
    "--tls-crl=crl.pem",
    "--tls-verify=optional",
    "--tls-profile=8996-mod",
    "--store=/srv/dicom",
    "--state-dir=/var/lib/dicom",
    "--accept-any-ae",
    "--accept-any-called-ae",
    "--networks=192.0.2.0/24",
    "--networks=2001:db8::7",
    "--associations-per-minute-per-host=1000",
    "--failed-associations-per-minute-per-host=10",
    "--allow-retrieve=any",
    "--auth=scrypt:/etc/dicomtw/passwd",
    "--auth=unix",
    "--user-identity=required",
    "--auth-without-tls",
    "--index-attribute=KVP",
    "--index-attribute=SERIES:ConvolutionKernel",
    "--accept-unknown-sop-classes",
    "--no-implementation-version-name",
    "--enforce-default-transfer-syntax",
    f"--prefer-transfer-syntax={EVR}",
    f"--prefer-transfer-syntax={IVR}",
    "--max-pdu=16384",
    "--max-associations=5",
    "--max-associations-per-host=2",
    "--max-connections=40",
    "--max-connections-per-host=10",
    "--max-object-size=100",
    "--min-free-space=50",
    "--max-matches=1000",
    "--query-timeout=5",
    "--max-sub-operations=2000",
    "--max-moves=3",
    "--artim-timeout=1.5",
    "--dimse-timeout=2",
    "--idle-timeout=3",
    "--drain-timeout=4",
    "--durability=relaxed",
    "--on-duplicate=keep",
    "--audit=tls:log.example",
    "--audit-ca=log-ca.pem",
    "--audit-cert=log-cert.pem",
    "--audit-key=log-key.pem",
    "--audit-required",
    "--log-format=json",
    "--workers=2",
    "--remote=CT1@ct.example:104,tls,check-host,no-version,default-transfer-syntax",
]


class CommandLineTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)
        self.here = Path(self.mktemp())
        self.here.mkdir()

    def parsed(self, *words: str) -> Configuration:
        """What a command line means."""
        options = Options()
        options.parseOptions(list(words))
        self.assertEqual(self.err.getvalue(), "")
        return options.configuration

    def server(self, *words: str) -> Server:
        (server,) = self.parsed(*words).servers
        return server

    def exits(self, *words: str) -> tuple[Any, list[str]]:
        """The exit status of a command line, and the lines on standard error."""
        self.err.truncate(0)
        self.err.seek(0)
        code = self.assertRaises(SystemExit, Options().parseOptions, list(words)).code
        return code, self.err.getvalue().splitlines()

    def file(self, text: str) -> str:
        path = self.here / "dicom.toml"
        path.write_text(text)
        return f"--config={path}"


class OptionTests(CommandLineTestCase):
    def test_none(self) -> None:
        """Without options it is what it is without a file."""
        self.assertEqual(self.parsed(), configure(None, {}))

    def test_contract(self) -> None:
        """The first example of the contract."""
        server = self.server("--port=4030", "--aet=PMOD")
        self.assertEqual((server.port, server.aet), (4030, "PMOD"))

    def test_everything(self) -> None:
        """Everything can be said on the command line, and means what it means in a file."""
        expected = Configuration(servers=(SERVER,), remotes=(REMOTE,), log_format="json", workers=2)
        self.assertEqual(self.parsed(*EVERY_OPTION), expected)
        self.assertEqual(self.parsed(self.file(EVERYTHING)), expected)
        named = {word[2:].partition("=")[0] for word in EVERY_OPTION}
        self.assertEqual(set(settings_of(Server)) - named, {"known-ae-only"})
        self.assertTrue(self.server("--known-ae-only").known_ae_only)

    def test_one_by_one(self) -> None:
        """Each option sets its own setting and no other."""
        for word in EVERY_OPTION:
            name = word[2:].partition("=")[0]
            needs = {
                "interface": ["--port=1"],
                "tls-key": ["--tls-cert=c"],
                "tls-crl": ["--tls-ca=c"],
                "tls-verify": ["--tls-ca=c"],
                "user-identity": ["--auth=unix"],
                "auth-without-tls": ["--auth=unix"],
                "audit-ca": ["--audit=tls:a"],
                "audit-cert": ["--audit=tls:a"],
                "audit-key": ["--audit=tls:a", "--audit-cert=c"],
                "audit-required": ["--audit=udp:a"],
            }
            words = [word, *needs.get(name, []), *(["--tls"] if name.startswith("tls-") else [])]
            if name in ("log-format", "workers", "remote"):
                continue
            field = settings_of(Server)[name].name
            changed = {
                field
                for field in (setting.name for setting in settings_of(Server).values())
                if getattr(self.server(*words), field) != getattr(Server(port=4030), field)
            }
            allowed = {field, *(settings_of(Server)[one[2:].partition("=")[0]].name for one in words[1:])}
            if name == "listen":
                allowed.add("port")  # there is no default port beside --listen
            self.assertIn(field, changed, word)
            self.assertLessEqual(changed, allowed, word)

    def test_one_dash(self) -> None:
        """PMOD's users write one dash: ``-tls``, ``-port=4030`` or ``-port 4030``."""
        for words in (["-tls"], ["--tls"]):
            self.assertTrue(self.server(*words).tls)
        for words in (["-port=104"], ["-port", "104"], ["--port=104"], ["--port", "104"]):
            self.assertEqual(self.server(*words).port, 104, words)
        self.assertEqual(self.parsed("-remote=A@h:1").remotes, (Remote(aet="A", host="h", port=1),))
        self.assertEqual(self.server("-listen=tcp:1", "-listen", "tcp:2").listen, ("tcp:1", "tcp:2"))

    def test_command_line_wins(self) -> None:
        """The command line wins over the file, and what it does not say is the file's."""
        file = self.file("port = 104\naet = 'FILE'\nmax-pdu = 16384\n[[remote]]\naet = 'A'")
        configuration = self.parsed(file, "--aet=MINE", "--remote=B@h:1")
        (server,) = configuration.servers
        self.assertEqual((server.port, server.aet, server.max_pdu), (104, "MINE", 16384))
        self.assertEqual([remote.aet for remote in configuration.remotes], ["A", "B"])

    def test_help(self) -> None:
        """Help names every option with what it means and its default, and succeeds."""
        self.assertIn(self.exits("--help")[0], (0, None))
        said = " ".join(self.out.getvalue().split())
        for name, setting in settings_of(Server).items():
            self.assertIn(f"--{name}", said)
            if setting.metadata["kind"] is FLAG and name != "known-ae-only":
                self.assertFalse(setting.default, f"--{name} could not be switched off")
        for words in ("--remote=", "--config=", "--check", "[default: 262144]", "[default: DICOMTW]"):
            self.assertIn(words, said)

    def test_plugin(self) -> None:
        """Twistd finds it under the name ``dicom``."""
        (plugin,) = [one for one in getPlugins(IServiceMaker) if one.tapname == "dicom"]
        self.assertEqual(plugin.module, "dicomtw.tap")
        self.assertIs(plugin.options, Options)
        self.assertIs(plugin.makeService, makeService)

    def test_words_of_the_process(self) -> None:
        """Without words of their own the options are those of the process."""
        self.patch(sys, "argv", ["twistd", "--port=104"])
        options = Options()
        options.parseOptions()
        self.assertEqual(options.configuration.servers[0].port, 104)


class FaultTests(CommandLineTestCase):
    def test_one_line(self) -> None:
        """A bad value is one line on standard error that names the option, and exit status 1."""
        for words, said in (
            (["--port=x"], "--port takes a port number from 0 (any free one) to 65535, not 'x'"),
            (["--port=65536"], "--port takes a port number from 0 (any free one) to 65535, not '65536'"),
            (["-port=-1"], "--port takes a port number"),
            (["--aet=12345678901234567"], "--aet takes an AE title: 1 to 16 ASCII characters"),
            (["--aet=A\\B"], "--aet takes an AE title"),
            (["--aet= "], "--aet takes an AE title"),
            (["--interface=localhost"], "--interface takes an IP address"),
            (["--tls", "--tls-verify=maybe"], "--tls-verify takes one of none, optional, required"),
            (["--tls", "--tls-profile=b12"], "--tls-profile takes one of 8996"),
            (["--tls", "--tls-profile=basic"], "--tls-profile=basic: the Basic TLS profile (PS3.15 B.1)"),
            (["--tls-cert=c"], "--tls-cert, --tls-key, --tls-ca, --tls-crl and --tls-verify need --tls"),
            (["--max-pdu=4095"], "--max-pdu takes a number of bytes from 4096"),
            (["--max-pdu=many"], "--max-pdu takes a number of bytes from 4096"),
            (["--max-associations=0"], "--max-associations takes a whole number"),
            (["--artim-timeout=never"], "--artim-timeout takes a number of seconds"),
            (["--dimse-timeout=0"], "--dimse-timeout takes a number of seconds"),
            (["--idle-timeout=nan"], "--idle-timeout takes a number of seconds"),
            (["--drain-timeout=1e9"], "--drain-timeout takes a number of seconds"),
            (["--durability=fast"], "--durability takes one of strict, relaxed"),
            (["--on-duplicate=both"], "--on-duplicate takes one of replace, keep, refuse"),
            (["--prefer-transfer-syntax=1.2.3"], "--prefer-transfer-syntax takes the UID of a transfer"),
            (["--remote=CT1"], "--remote takes AET@HOST:PORT[,FLAG...], not 'CT1'"),
            (["--remote=A\\B@h:1"], "--remote AET takes an AE title"),
            (["--remote=CT1@h:65536"], "--remote PORT takes a port number"),
            (["--remote=CT1@h:1,tsl"], "--remote takes the flags"),
            (["--accept-any-ae", "--known-ae-only"], "--accept-any-ae and --known-ae-only contradict"),
            (["--config=/nonexistent.toml"], "/nonexistent.toml: No such file or directory"),
            (["--prot=1"], "option --prot not recognized"),
            (["--port"], "option --port requires argument"),
            (["--tls=1"], "option --tls must not have an argument"),
            (["-x"], "option -x not recognized"),
            (["start"], "dicom takes options only, not 'start'"),
        ):
            code, lines = self.exits(*words)
            self.assertEqual((code, len(lines)), (1, 1), (words, lines))
            self.assertTrue(lines[0].startswith(f"dicom: {said}"), lines[0])

    def test_log_format(self) -> None:
        """So is a bad log format, which is no server's."""
        for file in ([], [self.file("port = 104")]):
            code, (line,) = self.exits("--log-format=xml", *file)
            self.assertEqual(code, 1)
            self.assertTrue(line.startswith("dicom: --log-format takes one of text, json"), line)

    def test_workers(self) -> None:
        """So is a bad number of processes."""
        for word in ("0", "x", "65", "-1", "1.5"):
            code, (line,) = self.exits(f"--workers={word}")
            self.assertEqual(code, 1)
            said = f"dicom: --workers takes a whole number of processes from 1 to 64, not {word!r}"
            self.assertEqual(line, said)

    def test_faults_of_the_file(self) -> None:
        """A fault of the file's names file, table and key."""
        file = self.file("[[server]]\nprot = 1")
        code, (line,) = self.exits(file)
        self.assertEqual(code, 1)
        path = file.removeprefix("--config=")
        self.assertEqual(line, f"dicom: {path}: [[server]] 1: unknown key 'prot'; did you mean 'port'?")

    def test_empty_values(self) -> None:
        """An empty value, as a shell makes of a variable that is not set, is a bad one and not ignored."""
        for name, setting in settings_of(Server).items():
            if setting.metadata["kind"] is FLAG or name == "interface":
                continue  # an empty interface is the default: all of them
            words = [f"--{name}="]
            if name in ("tls-cert", "tls-key", "tls-ca", "tls-crl", "tls-verify"):
                words.append("--tls")
            code, lines = self._exits_or_not(*words)
            self.assertEqual((code, len(lines)), (1, 1), words)
            self.assertIn(f"--{name} takes ", lines[0])
        for word in ("--config=", "--log-format=", "--workers=", "--remote="):
            self.assertEqual(self._exits_or_not(word)[0], 1, word)

    def _exits_or_not(self, *words: str) -> tuple[Any, list[str]]:
        try:
            Options().parseOptions(list(words))
        except SystemExit:
            return self.exits(*words)
        return "accepted", []

    def test_usage_errors_only(self) -> None:
        """What Twisted's own parsers catch is what we raise: nothing else escapes."""
        self.assertRaises(usage.UsageError, Options().opt_remote, "x")
        self.assertRaises(usage.UsageError, Options().parseArgs, "x")


class CheckTests(CommandLineTestCase):
    """``--check``: says what a configuration means and what is wrong with it, and changes nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.here / "store"

    def test_good(self) -> None:
        """A good one is told in words and is exit status 0, and nothing is made."""
        code, lines = self.exits("--check", f"--store={self.store}", "--tls", "--remote=CT1@ct.example:104")
        self.assertEqual((code, lines), (0, []))
        said = self.out.getvalue()
        for words in (
            "server 1:\n",
            "AE title DICOMTW on dicomtls:4030",
            f"objects go to {self.store}, durability strict, on duplicate replace",
            "associations are accepted from configured remotes only",
            "TLS profile BCP 195 RFC 8996, 9325 (PS3.15 B.12), client certificates: none",
            "remote CT1 at ct.example:104",
        ):
            self.assertIn(words, said)
        self.assertEqual(list(self.here.iterdir()), [])

    def test_warnings(self) -> None:
        """What an operator should think about is told, and is no fault."""
        code, lines = self.exits("--check", f"--store={self.store}", "--durability=relaxed")
        self.assertEqual((code, lines), (0, []))
        self.assertIn("  warning: no remote is configured", self.out.getvalue())
        self.assertIn("  warning: durability is relaxed", self.out.getvalue())

    def test_few_descriptors(self) -> None:
        """That there are too few file descriptors is told, and no fault: 1024 are enough for the defaults."""
        for most, told in ((1024, False), (512, True), (resource.RLIM_INFINITY, False)):
            self.patch(resource, "getrlimit", lambda which, most=most: (most, most))
            code, _ = self.exits("--check", f"--store={self.store}")
            self.assertEqual(code, 0)
            said = self.out.getvalue()
            self.assertEqual("warning: 512 file descriptors (ulimit -n) are too few" in said, told, most)
            self.out.truncate(0)

    def test_faults(self) -> None:
        """What would keep the server from starting is one line each, and exit status 1."""
        file = self.here / "file"
        file.write_text("no directory")
        absent = self.here / "absent.pem"
        for words, said in (
            ([f"--store={file}"], "is not a directory"),
            ([f"--store={file}/below"], "is not a directory"),
            (["--listen=nonsense"], "--listen takes a Twisted server endpoint, not 'nonsense'"),
            (["--listen=tcp:x"], "--listen takes a Twisted server endpoint, not 'tcp:x'"),
            ([f"--listen=ssl:1:privateKey={absent}"], "--listen takes a Twisted server endpoint"),
            (["--tls", f"--tls-cert={absent}"], f"{absent}: No such file"),
            (["--tls", f"--tls-cert={file}"], f"{file} holds no usable certificate"),
        ):
            store = [] if words[0].startswith("--store") else [f"--store={self.store}"]
            code, lines = self.exits("--check", *words, *store)
            self.assertEqual((code, len(lines)), (1, 1), (words, lines))
            self.assertTrue(lines[0].startswith("dicom: "), lines[0])
            self.assertIn(said, lines[0])
        self.assertEqual([path.name for path in self.here.iterdir()], ["file"])

    def test_authorities(self) -> None:
        """The certificates of peers' authorities are looked at, with a certificate of our own making too."""
        absent = self.here / "absent.pem"
        words = ["--check", f"--store={self.store}", "--tls", f"--tls-ca={absent}"]
        own = self.here / "own.pem"
        own.write_bytes(identity("server").cert_pem + identity("server").key_pem)
        for cert in ([f"--tls-cert={own}"], []):
            code, lines = self.exits(*words, *cert)
            self.assertEqual(code, 1, cert)
            self.assertIn(f"{absent}: No such file", lines[0])

    def test_no_permission(self) -> None:
        """A store that cannot be written is a fault."""
        self.patch(os, "access", lambda path, mode: False)
        code, (line,) = self.exits("--check", f"--store={self.store}")
        self.assertEqual(code, 1)
        self.assertIn(f"the store {self.store} cannot be written: no permission in ", line)

    def test_several(self) -> None:
        """Each server is told, and the faults of all."""
        file = self.file(
            f"""
            [[server]]
            aet = "ONE"
            port = 104
            store = "{self.store}"
            [[server]]
            aet = "TWO"
            listen = ["nonsense", "tcp:x"]
            store = "{self.store}"
            """
        )
        code, lines = self.exits("--check", file)
        self.assertEqual((code, len(lines)), (1, 2))
        self.assertIn("server 1:\n  AE title ONE on tcp:104\n", self.out.getvalue())
        self.assertIn("server 2:\n  AE title TWO on nonsense, tcp:x\n", self.out.getvalue())

    def test_as_a_function(self) -> None:
        """The same, for whoever has a configuration in hand."""
        self.assertEqual(check.check(Configuration(servers=(Server(port=1, store=str(self.store)),))), [])


class LogFormatTests(CommandLineTestCase):
    def options(self, parent: dict[str, Any] | None, *words: str) -> Options:
        """Our options, parsed inside those of a twistd or twist."""
        options = Options()
        if parent is not None:
            options.parent = parent
        options.parseOptions(list(words))
        return options

    def test_twist(self) -> None:
        """Under twist the factory of its log observer is ours."""
        parent: dict[str, Any] = {"fileLogObserverFactory": None}
        options = self.options(parent, "--log-format=json")
        self.assertIs(parent["fileLogObserverFactory"], file_log_observer)
        self.assertEqual(options.configuration.log_format, "json")

    def test_text(self) -> None:
        """Text is what it is without us."""
        parent: dict[str, Any] = {"fileLogObserverFactory": None}
        self.options(parent, "--log-format=text")
        self.assertIsNone(parent["fileLogObserverFactory"])


class ProcessTests(CommandLineTestCase):
    def test_owner(self) -> None:
        """The service learns as whom it will run; a user's group is his own if none is given."""
        self.patch(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_gid=uid + 1))
        for options, owner in (
            ({}, None),
            ({"uid": None, "gid": None}, None),
            ({"uid": 7, "gid": 8}, (7, 8)),
            ({"uid": 7, "gid": 0}, (7, 0)),
            ({"uid": 7, "gid": None}, (7, 8)),
            ({"gid": 8}, None),
        ):
            self.assertEqual(Process(options).owner(), owner, options)

    def test_owner_is_set_late(self) -> None:
        """Options are read when they are needed: twistd sets some of them after we are made."""
        options: dict[str, Any] = {}
        process = Process(options)
        self.assertIsNone(process.owner())
        options.update(uid=7, gid=8)
        self.assertEqual(process.owner(), (7, 8))

    def test_no_such_user(self) -> None:
        """For a user that is none of this machine's a group must be given."""

        def getpwuid(uid: int) -> Any:
            raise KeyError(f"getpwuid(): uid not found: {uid}")

        self.patch(pwd, "getpwuid", getpwuid)
        for options in ({"uid": 54321}, {"uid": 54321, "gid": None}):
            fault = self.assertRaises(StartError, Process(options).owner)
            self.assertEqual(str(fault), "--uid 54321 is no user of this machine: --gid is needed too")
        self.assertEqual(Process({"uid": 54321, "gid": 8}).owner(), (54321, 8))

    def test_log_observer(self) -> None:
        """Under twistd there is a log observer, made of twistd's own options; elsewhere there is none."""
        observer = Process({"logfile": "-", "nodaemon": 1}).log_observer()
        assert observer is not None
        observer({"log_format": "said"})
        self.assertIn('"message": "said"', self.out.getvalue())
        self.assertIsNone(Process({"fileLogObserverFactory": None}).log_observer())


class MakeServiceTests(CommandLineTestCase):
    def test_service(self) -> None:
        """The service is made of the configuration and the process."""
        made: list[Any] = []
        self.patch(tap, "DicomService", lambda *arguments, **more: made.append((arguments, more)) or "made")
        options = Options()
        options.parseOptions(["--port=0"])
        self.assertEqual(makeService(options), "made")
        self.assertEqual(made, [((options.configuration,), {"process": Process({})})])
