"""README.rst and docs: every example in them does what it is there for, on a server that is started for it.

A document is played from top to bottom in one directory, with the virtual environment of these tests as
``.venv``. A block of TOML or Python with a name becomes a file of that name, Python without one is run, and
so are the lines of a shell block; a server that one starts runs until the next is started. The lines
that install from a clone are run by ``.ci/run`` and ``.ci/package``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
from docutils import nodes
from docutils.core import publish_doctree
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.config import Server
from dicomtw.settings import settings_of
from dicomtw.tap import Options
from tests.interop.twistd import CHECKOUT, temporary_directory
from tests.running import Running, free_ports, shell_environment

DOCUMENTS = (*CHECKOUT.glob("*.rst"), *(CHECKOUT / "docs").glob("*.rst"))

#: What the examples need besides Python.
_PROGRAMS = ("echoscu", "storescu", "openssl")
#: The names of blocks that install from a clone.
_INSTALLS = ("set-up", "test", "develop")
#: Seconds for one block.
_PATIENCE = 60.0


@attrs.frozen
class Block:
    """A literal block of a document: its language, its name if it has one, its text, its line."""

    language: str
    name: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    """The blocks of code of a document; docutils raises `SystemMessage` if it is not well formed."""
    settings = {
        "halt_level": 2,
        "syntax_highlight": "none",
        "_disable_config": True,
        "file_insertion_enabled": False,
    }
    tree = publish_doctree(path.read_text("utf-8"), source_path=str(path), settings_overrides=settings)
    return [
        Block(node["classes"][-1], (node["names"] or [""])[0], node.astext(), node.line or 0)
        for node in tree.findall(nodes.literal_block)
        if "code" in node["classes"]
    ]


class Player:
    """Does what the blocks of a document say, on free ports of the loopback interface."""

    def __init__(self, test: SynchronousTestCase, directory: Path) -> None:
        self._test = test
        self._directory = directory
        self._server: Running | None = None
        self._ports: dict[str, int] = {}
        (directory / ".venv").symlink_to(sys.prefix)

    def play(self, block: Block) -> None:
        """Do what one block says; fails as the commands in it do."""
        if block.name in _INSTALLS:
            return
        text = self._local(block.text)
        if block.name:
            (self._directory / block.name).write_text(text + "\n", "utf-8")
        if block.language == "toml":
            self._run([".venv/bin/twistd", "dicom", "--check", f"--config={block.name}"], block)
        elif block.language == "python" and not block.name:
            self._run([sys.executable, "-c", text], block)
        elif block.language == "sh" and "twistd -n" in text:
            self.stop()
            command = re.sub(r"^((?:\w+=\S+ )*)", r"\1exec ", text)
            self._server = Running(self._test, ["bash", "-c", command], self._directory, shell_environment())
            self._server.wait_for(" starting on ")
        elif block.language == "sh":
            self._run(["bash", "-euo", "pipefail", "-c", text], block)
        elif block.language != "python":
            self._test.fail(f"nobody knows how to try {block.language} of line {block.line}")

    def stop(self) -> None:
        """End the server that the last block of that kind has started."""
        if self._server is not None:
            self._test.assertIn(self._server.stop(), (0, -signal.SIGTERM), self._server.log)
            self._test.assertNotIn("Traceback", self._server.log)
        self._server = None

    def _local(self, text: str) -> str:
        text = text.replace("--port=", "--interface=127.0.0.1 --port=").replace(
            "/srv/", f"{self._directory}/"
        )
        text = text.replace("PYTHONPATH=.", f"PYTHONPATH=.:{CHECKOUT}")
        return re.sub(r"\b(?:40\d\d|104|2762)\b", lambda found: str(self._port(found[0])), text)

    def _port(self, written: str) -> int:
        if written not in self._ports:
            (self._ports[written],) = free_ports(1)
        return self._ports[written]

    def _run(self, command: list[str], block: Block) -> None:
        done = subprocess.run(
            command,
            cwd=self._directory,
            env=shell_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        log = self._server.log if self._server is not None else ""
        self._test.assertEqual(done.returncode, 0, f"line {block.line}:\n{block.text}\n{done.stdout}\n{log}")


class ExampleTests(SynchronousTestCase):
    """The examples, document by document."""

    def _play(self, path: Path) -> Path:
        found = blocks(path)
        text = "\n".join(block.text for block in found)
        path = shell_environment()["PATH"]
        absent = [name for name in _PROGRAMS if name in text and shutil.which(name, path=path) is None]
        if absent:
            self.skipTest(f"not installed: {', '.join(absent)}")
        directory = temporary_directory(self)
        player = Player(self, directory)
        for block in found:
            player.play(block)
        player.stop()
        return directory

    def test_readme(self) -> None:
        """The tour of README.rst stores one image, which it sends three times."""
        store = self._play(CHECKOUT / "README.rst") / "dicom-store"
        self.assertEqual(len(list(store.glob("*/*/*.dcm"))), 1)

    def test_service_class(self) -> None:
        """The service class of docs/service-class.rst passes its test, and is told of two instances."""
        self._play(CHECKOUT / "docs" / "service-class.rst")

    def test_client(self) -> None:
        """The scripts of docs/client.rst get a study, and have it moved: it is in three stores."""
        directory = self._play(CHECKOUT / "docs" / "client.rst")
        archive, received, workstation = (
            {path.name for path in (directory / name).glob("*/*/*.dcm")}
            for name in ("archive", "received", "workstation")
        )
        self.assertEqual(received, workstation)
        self.assertLess(received, archive)

    def test_command(self) -> None:
        """The commands of docs/command.rst bring back the image that they have sent."""
        directory = self._play(CHECKOUT / "docs" / "command.rst")
        self.assertEqual(len(list((directory / "got").rglob("*.dcm"))), 1)

    def test_users(self) -> None:
        """The users of docs/users.rst are known by their passcode, and by their token."""
        self._play(CHECKOUT / "docs" / "users.rst")

    def test_others_have_none(self) -> None:
        """No other document has an example that nobody tries."""
        for path in DOCUMENTS:
            if path.name not in ("README.rst", "client.rst", "command.rst", "service-class.rst", "users.rst"):
                others = [block for block in blocks(path) if block.name not in _INSTALLS]
                self.assertEqual(others, [], path.name)


class InstallLineTests(SynchronousTestCase):
    """The lines that install from a clone."""

    def test_are_run_as_they_stand(self) -> None:
        """Each is one line that begins with no virtual environment, and is what CI runs."""
        named = {block.name: block.text for path in DOCUMENTS for block in blocks(path)}
        for name in _INSTALLS:
            self.assertRegex(named[name], r"\Apython3 -m venv \.venv && [^\n]+\Z")
        scripts = {name: (CHECKOUT / ".ci" / name).read_text("utf-8") for name in ("run", "package")}
        self.assertIn("readme_line set-up", scripts["package"])
        self.assertIn("readme_line test", scripts["run"])
        self.assertIn("\n" + named["develop"].split(" && ")[1] + "\n", scripts["run"])


class OptionReferenceTests(SynchronousTestCase):
    """docs/options.rst"""

    def _generator(self) -> ModuleType:
        path = CHECKOUT / "tools" / "generate_options.py"
        spec = importlib.util.spec_from_file_location("generate_options", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_is_current(self) -> None:
        """It is what tools/generate_options.py prints."""
        text = (CHECKOUT / "docs" / "options.rst").read_text("utf-8")
        self.assertEqual(text, self._generator().option_reference())

    def test_is_complete(self) -> None:
        """It has every option of the command."""
        text = (CHECKOUT / "docs" / "options.rst").read_text("utf-8")
        for word in Options().longOpt:
            self.assertTrue(re.search(rf"``--{word.rstrip('=')}[=`]", text), word)


class LimitsTests(SynchronousTestCase):
    """``docs/limits.rst`` against the code."""

    #: Options that are limits.
    OPTIONS = ("max-", "min-free-space", "query-timeout", *(f"{name}-timeout" for name in ("artim", "dimse")))

    def rows(self) -> list[list[nodes.entry]]:
        """The rows of its tables, without their heads."""
        path = CHECKOUT / "docs" / "limits.rst"
        tree = publish_doctree(path.read_text("utf-8"), settings_overrides={"_disable_config": True})
        return [list(row.findall(nodes.entry)) for body in tree.findall(nodes.tbody) for row in body.children]

    def test_defaults(self) -> None:
        """Each option and each constant that is named is there, with the default that is said."""
        checked = []
        for _, name, default, _ in self.rows():
            (named, *_) = [one.astext() for one in name.findall(nodes.literal)]
            said = [one.astext() for one in default.findall(nodes.literal)]
            if named.startswith("--"):
                value: Any = settings_of(Server)[named[2:]].default
                self.assertEqual(said, [] if value is None else [str(int(value))], named)
            elif named.startswith("ulimit"):
                continue
            else:
                module, _, constant = named.rpartition(".")
                value = getattr(importlib.import_module(f"dicomtw.{module}"), constant)
                self.assertEqual(said, [str(value)], named)
            checked.append(named)
        self.assertGreater(len(checked), 40)

    def test_options(self) -> None:
        """Every option that is a limit is there."""
        named = {name.astext() for _, name, _, _ in self.rows()}
        options = {name for name in settings_of(Server) if name.startswith(self.OPTIONS)}
        self.assertEqual({f"--{name}" for name in options} - named, set())


class ReliabilityTests(SynchronousTestCase):
    """``docs/reliability.md``: whoever reads it can run what it names."""

    def test_commands(self) -> None:
        """Each test, module and file that it names is there."""
        text = (CHECKOUT / "docs" / "reliability.md").read_text("utf-8")
        names = set(re.findall(r"\btests(?:\.\w+)+", text))
        for name in names:
            namedAny(name)  # raises for what is not there
        self.assertGreater(len(names), 40)
        for module in re.findall(r"python -m (\w+(?:\.\w+)*)", text):
            self.assertIsNotNone(importlib.util.find_spec(module), module)
        for path in re.findall(r"`((?:docs|fuzz|conf)/[\w./-]+)`", text):
            self.assertTrue((CHECKOUT / path).exists(), path)
