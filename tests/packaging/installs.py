"""Virtual environments and installs made quickly and without a network, with what these tests run on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.twistd import CHECKOUT, temporary_directory

#: Seconds for one run of pip.
_PIP = 120.0

#: Not part of the project, though it may lie in a checkout.
_NOT_OURS = shutil.ignore_patterns(
    ".git", ".*_cache", ".hypothesis", ".venv*", "__pycache__", "_trial_temp*", "*.egg-info", "build", "dist"
)

#: What pip makes of Twisted's console scripts.
_SCRIPTS = {
    "twistd": "from twisted.scripts.twistd import run; run()",
    "twist": "import sys; from twisted.application.twist._twist import Twist; Twist.main(sys.argv)",
}

#: From setuptools 70.1 on, wheels are built without the package "wheel".
_SETUPTOOLS = (70, 1)


def cannot_install() -> str | None:
    """Why nothing can be installed here, for a test's `skip` attribute."""
    if find_spec("pip") is None:
        return "not installed: pip"
    try:
        setuptools = version("setuptools")
    except PackageNotFoundError:
        return "not installed: setuptools"
    if tuple(map(int, setuptools.split(".")[:2])) < _SETUPTOOLS:
        return f"setuptools is {setuptools}; building takes {'.'.join(map(str, _SETUPTOOLS))}"
    return None


def environment(**more: str) -> dict[str, str]:
    """An environment in which nothing but what is installed can be imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1", **more}


def run(
    command: Sequence[str], cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in `environment` unless told otherwise."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PIP,
        check=False,
    )


def copy_of_checkout(test: SynchronousTestCase) -> Path:
    """The project's files in a directory of their own, so that building leaves nothing in the checkout."""
    copy = temporary_directory(test) / "dicomtw"
    shutil.copytree(CHECKOUT, copy, ignore=_NOT_OURS)
    return copy


class Venv:
    """A virtual environment with the dependencies of these tests' own, and without dicomtw."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self._test = test
        self.directory = temporary_directory(test) / "venv"
        #: Somewhere else than any checkout.
        self.elsewhere = temporary_directory(test)
        self._run(sys.executable, "-m", "venv", "--without-pip", str(self.directory))
        self.python = self.directory / "bin" / "python"
        packages = self._run(str(self.python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        self.packages = Path(packages.strip())
        # A line of a .pth file is a directory to import from; .pth files in there do not count, and so
        # an editable install of dicomtw is not taken over.
        ours = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (self.packages / "dependencies.pth").write_text("\n".join(ours) + "\n", "utf-8")
        for name, code in _SCRIPTS.items():
            script = self.python.with_name(name)
            script.write_text(f"#!{self.python}\n{code}\n", "utf-8")
            script.chmod(0o755)
        if "dicom" in self.subcommands():
            test.skipTest("these tests run on an interpreter that has dicomtw installed, not editable")

    def _run(self, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        done = run(command, cwd or self.elsewhere, env)
        self._test.assertEqual(done.returncode, 0, f"{command}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def install(self, *what: str, cwd: Path | None = None) -> None:
        """``pip install`` without dependencies, which are there."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet"]
        self._run(*pip, "--no-deps", "--no-build-isolation", *what, cwd=cwd)

    def twistd(self, *words: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        """What ``twistd`` says."""
        return self._run(str(self.python.with_name("twistd")), *words, cwd=cwd, env=env)

    def twist(self, *words: str) -> str:
        """What ``twist`` says."""
        return self._run(str(self.python.with_name("twist")), *words)

    def subcommands(self, cwd: Path | None = None, env: dict[str, str] | None = None) -> set[str]:
        """What ``twistd --help`` lists as commands."""
        commands = self.twistd("--help", cwd=cwd, env=env).partition("Commands:\n")[2]
        return {line.split()[0] for line in commands.splitlines() if line.strip()}

    def evaluate(self, expression: str) -> str:
        """The value of a Python expression about the installed dicomtw, as a string."""
        return self._run(str(self.python), "-c", f"import dicomtw; print({expression})").strip()
