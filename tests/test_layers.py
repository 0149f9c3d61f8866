"""Imports run one way: every file of the package is parsed and each import held against the arrow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import dicomtw

PACKAGE = Path(dicomtw.__file__).parent
PLUGINS = PACKAGE.parent / "twisted" / "plugins"

#: Who may import what of the package. A name stands for a module, or for a package and all that is in it;
#: "services/__init__" is that module alone.
GROUND = ("errors", "uids", "ae_title")
ARROW: dict[str, tuple[str, ...]] = {
    "__init__": (),
    "errors": (),
    "uids": (),
    "ae_title": (),
    "settings": ("ae_title",),
    "ul": (*GROUND, "ul"),
    "dimse": (*GROUND, "ul", "dimse"),
    "encoding": ("errors", "uids", "encoding"),
    "storage": ("__init__", "errors", "uids", "encoding", "storage"),
    "services/__init__": (*GROUND, "ul.negotiation", "dimse", "storage"),
    "services": (
        *GROUND,
        "ul.negotiation",
        "ul.pdu",
        "dimse",
        "encoding",
        "storage",
        "services",
        "transcode",
    ),
    "security": (*GROUND, "settings", "ul.items", "ul.pdu", "security"),
    "feed": (*GROUND, "storage", "services/__init__"),
    "trail": (*GROUND, "services/__init__", "security.access"),
    "coroutines": (),
    "operations": (
        *GROUND,
        "ul.negotiation",
        "dimse",
        "storage",
        "services/__init__",
        "trail",
        "feed",
        "coroutines",
    ),
    "outbox": (*GROUND, "dimse", "services/__init__", "feed"),
    "requests": (*GROUND, "ul.negotiation", "dimse"),
    "association": (
        *GROUND,
        "ul",
        "dimse",
        "services/__init__",
        "trail",
        "feed",
        "operations",
        "outbox",
        "requests",
    ),
    "threaded": (),
    "authentication": (*GROUND, "security", "ul.items", "threaded"),
    "checkers": ("security.passwords", "security.kept", "threaded", "authentication"),
    "named_checkers": ("security.identity", "threaded", "authentication"),
    "acceptor": (
        *GROUND,
        "ul",
        "dimse",
        "services/__init__",
        "authentication",
        "security.access",
        "security.identity",
        "security.certificate",
        "security.remote",
        "trail",
        "feed",
        "operations",
        "association",
    ),
    "summary": (*GROUND, "association", "security.identity"),
    "transports": ("security.certificate", "security.verification"),
    "limits": ("security",),
    "crowd": ("limits", "security.addresses"),
    "wakeful": (),
    "watch": ("ul.machine", "association", "limits"),
    "protocol": (*GROUND, "ul", "association", "limits", "summary", "transports", "watch"),
    "server": (*GROUND, "ul", "acceptor", "crowd", "limits", "protocol", "security", "transports"),
    "tls_transport": ("transports",),
    "tls_listening": ("security", "tls_transport"),
    "proxy": ("server", "tls_listening"),
    "jsonlog": (),
    "requestor": (*GROUND, "ul", "dimse", "services/__init__", "feed", "association"),
    "answers": (*GROUND, "dimse", "services/__init__", "requests", "transcode"),
    "matches": (*GROUND, "dimse", "requests", "requestor", "answers"),
    "storing": (*GROUND, "ul.negotiation", "storage", "services/__init__", "requestor", "transcode"),
    "scu": (
        *GROUND,
        "dimse",
        "services/__init__",
        "operations",
        "requestor",
        "requests",
        "answers",
        "matches",
        "storing",
        "transcode",
    ),
    "transcode": (*GROUND, "storage"),
    "client": (
        *GROUND,
        "feed",
        "settings",
        "security",
        "services",
        "transports",
        "tls_listening",
        "tls_transport",
        "limits",
        "protocol",
        "requestor",
        "scu",
        "storing",
    ),
    "config": (*GROUND, "settings", "security", "storage"),
    "configure": ("settings", "security.remote", "config"),
    "testing": (
        *GROUND,
        "ul",
        "dimse",
        "storage",
        "services",
        "security",
        "feed",
        "acceptor",
        "protocol",
        "scu",
        "client",
        "limits",
        "server",
    ),
    "entering": (*GROUND, "storage"),
    "indexing": (*GROUND, "dimse", "feed", "storage"),
    "archive": (*GROUND, "config", "feed", "entering", "indexing", "storage", "workers.progress"),
    "destinations": (
        *GROUND,
        "security.access",
        "security.kept",
        "security.passwords",
        "security.remote",
        "security.tls",
        "feed",
        "operations",
        "protocol",
        "requestor",
        "client",
        "config",
        "limits",
    ),
    "collectors": ("security.audit", "security.tls", "client", "transports"),
    "recorder": ("security.audit", "collectors"),
    "auditing": (
        *GROUND,
        "dimse",
        "encoding",
        "storage",
        "services/__init__",
        "security",
        "client",
        "config",
        "collectors",
        "recorder",
    ),
    "process": ("jsonlog",),
    "workers": (
        *GROUND,
        "acceptor",
        "config",
        "crowd",
        "destinations",
        "limits",
        "security",
        "server",
        "ul.pdu",
        "workers",
    ),
    "standard": ("services", "storage.bounded", "archive", "config", "destinations"),
    "ports": ("security", "config", "process", "proxy", "tls_listening", "words"),
    "service": (
        *GROUND,
        "services",
        "standard",
        "ports",
        "encoding.character_sets",
        "limits",
        "security",
        "archive",
        "authentication",
        "named_checkers",
        "destinations",
        "process",
        "acceptor",
        "protocol",
        "tls_listening",
        "config",
        "names",
        "trail",
        "auditing",
        "words",
        "wakeful",
        "server",
        "workers",
    ),
    "names": (),
    "words": ("storage", "security", "limits", "config"),
    "check": (
        "limits",
        "named_checkers",
        "security",
        "config",
        "destinations",
        "words",
        "proxy",
        "tls_listening",
        "auditing",
    ),
    "tap": ("settings", "config", "configure", "security.remote", "check", "jsonlog", "service"),
    "command/__init__": ("command",),
    "command.arguments": ("__init__", "ae_title", "command.exits"),
    "command": (
        *GROUND,
        "dimse",
        "encoding",
        "storage",
        "services",
        "security",
        "ul.pdu",
        "protocol",
        "settings",
        "configure",
        "client",
        "scu",
        "storing",
        "tap",
        "command",
        "limits",
    ),
    "__main__": ("command/__init__",),
}

#: What knows nothing of Twisted.
WITHOUT_TWISTED = (*GROUND, "ul", "dimse", "encoding", "storage", "services", "security", "config")


def name_of(path: Path) -> str:
    """A file's module as the tables above write it: ``ul.pdu``, ``services/__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "/".join(parts) if parts[-1] == "__init__" else ".".join(parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def own(name: str) -> str | None:
    """The module of this package that an imported name is, or comes from; None for other packages."""
    if name != "dicomtw" and not name.startswith("dicomtw."):
        return None
    inner = name.removeprefix("dicomtw").removeprefix(".")
    for module in (inner, inner.rpartition(".")[0]):
        if module in MODULES:
            return module
        package = f"{module.replace('.', '/')}/__init__".removeprefix("/")
        if package in MODULES:
            return package
    raise AssertionError(f"{name} is nothing of the package")


def within(module: str, name: str) -> bool:
    """Whether `module` is what `name` stands for in the tables above."""
    return module == name or module.startswith((f"{name}.", f"{name}/"))


def run(script: str) -> str:
    """What a script prints in an interpreter of its own, where warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=PACKAGE.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class LayerTests(SynchronousTestCase):
    def test_arrow(self) -> None:
        """No file imports against the arrow."""
        faults = []
        for module, path in MODULES.items():
            rule = next(rule for rule in ARROW if within(module, rule))
            for line, name in imports(path):
                found = own(name)
                if found is not None and not any(within(found, allowed) for allowed in ARROW[rule]):
                    faults.append(f"{path}:{line}: {module} imports {found}")
        self.assertEqual(faults, [])

    def test_every_module_has_its_place(self) -> None:
        """Each module of the package is in the table, and each row of the table is about one."""
        homeless = [name for name in MODULES if not any(within(name, rule) for rule in ARROW)]
        self.assertEqual(homeless, [])
        self.assertEqual([rule for rule in ARROW if not any(within(name, rule) for name in MODULES)], [])

    def test_absolute(self) -> None:
        """Imports are absolute, so that a name says where it comes from."""
        relative = [(name, line) for name, path in MODULES.items() for line, _ in _relative(path)]
        self.assertEqual(relative, [])

    def test_without_twisted(self) -> None:
        """The protocol, the files, the services and the security rules know nothing of Twisted."""
        faults = [
            f"{path}:{line}: {name}"
            for module, path in MODULES.items()
            if any(within(module, part) for part in WITHOUT_TWISTED)
            for line, name in imports(path)
            if name.partition(".")[0] in ("twisted", "zope", "automat")
        ]
        self.assertEqual(faults, [])

    def test_no_back_door(self) -> None:
        """Nothing is imported for type checkers only: an annotation is a dependency too."""
        users = [
            f"{path}:{line}"
            for path in MODULES.values()
            for line, name in imports(path)
            if name == "typing.TYPE_CHECKING"
        ]
        self.assertEqual(users, [])

    def test_kit_is_for_tests(self) -> None:
        """No module of the server uses the in-memory kit or the test tools of others."""
        tools = ("dicomtw.testing", "unittest", "twisted.trial", "hypothesis", "pytest")
        faults = [
            f"{path}:{line}: {name}"
            for module, path in MODULES.items()
            if module != "testing"
            for line, name in imports(path)
            if name.startswith(tools)
        ]
        self.assertEqual(faults, [])

    def test_plugin(self) -> None:
        """The plugin files, which every twistd of the machine imports, import next to nothing, and of ours
        nothing before it is asked for.
        """
        expected = {
            "dicomtw_plugin.py": ["twisted.application.service.ServiceMaker"],
            "dicomtw_auth.py": [
                "__future__.annotations",
                "collections.abc.Sequence",
                "importlib.import_module",
                "typing.Any",
                "twisted.cred.strcred.ICheckerFactory",
                "twisted.plugin.IPlugin",
                "zope.interface.implementer",
            ],
            "dicomtw_endpoints.py": [
                "__future__.annotations",
                "typing.Any",
                "twisted.internet.interfaces.IStreamServerEndpoint",
                "twisted.internet.interfaces.IStreamServerEndpointStringParser",
                "twisted.plugin.IPlugin",
                "zope.interface.implementer",
                "dicomtw.tls_listening.parse",
            ],
        }
        found = {path.name: [name for _, name in imports(path)] for path in PLUGINS.glob("*.py")}
        self.assertEqual(found, expected)
        script = (
            "import runpy, sys\n"
            f"for path in {[str(PLUGINS / name) for name in expected]!r}: runpy.run_path(path)\n"
            "print([name for name in sys.modules if name.startswith(('dicomtw', 'OpenSSL', 'cryptography'))])"
        )
        self.assertEqual(run(script), "[]\n")
        self.assertFalse((PLUGINS / "__init__.py").exists(), "it would hide Twisted's own plugins")


def _relative(path: Path) -> list[tuple[int, str]]:
    return [(line, name) for line, name in imports(path) if name.startswith(".")]


class ImportTimeTests(SynchronousTestCase):
    def test_package(self) -> None:
        """Importing the package imports nothing else of it, nor Twisted."""
        script = (
            "import sys, dicomtw\n"
            "print([name for name in sys.modules if name.startswith(('dicomtw.', 'twisted'))])"
        )
        self.assertEqual(run(script), "[]\n")

    def test_options(self) -> None:
        """Reading the command line installs no reactor and does not import pydicom or the kit."""
        script = (
            "import sys\n"
            "from dicomtw.tap import Options\n"
            "Options().parseOptions(['--port=0', '--aet=PMOD', '--remote=SCU@192.0.2.1:104,tls'])\n"
            "absent = ('twisted.internet.reactor', 'pydicom', 'dicomtw.testing')\n"
            "print([name for name in absent if name in sys.modules])"
        )
        self.assertEqual(run(script), "[]\n")

    def test_service(self) -> None:
        """The whole server runs without pydicom, which costs 0.4 s and 20 MiB."""
        script = (
            "import sys, dicomtw.service, dicomtw.check, dicomtw.testing\n"
            "absent = ('pydicom', 'numpy', 'twisted.internet.reactor')\n"
            "print([name for name in absent if name in sys.modules])"
        )
        self.assertEqual(run(script), "[]\n")
