"""``twistd dicom`` is found from a checkout, from a wheel and from an editable install, wherever one is."""

from __future__ import annotations

import configparser
import os
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import dicomtw
from tests.interop.twistd import CHECKOUT, temporary_directory
from tests.packaging.installs import Venv, cannot_install, copy_of_checkout, environment, run


def build(test: SynchronousTestCase, what: str) -> Path:
    """A wheel or an sdist of the checkout, by setuptools as installed."""
    directory = temporary_directory(test)
    code = f"from setuptools import build_meta; build_meta.build_{what}({str(directory)!r})"
    done = run([sys.executable, "-c", code], copy_of_checkout(test))
    test.assertEqual(done.returncode, 0, done.stdout + done.stderr)
    (path,) = directory.iterdir()
    return path


class CheckoutTests(SynchronousTestCase):
    """Nothing is installed, but PYTHONPATH names a checkout."""

    def test_from_the_checkout(self) -> None:
        """``PYTHONPATH=. twistd --help`` lists dicom; without PYTHONPATH it does not."""
        venv, checkout = Venv(self), copy_of_checkout(self)
        self.assertNotIn("dicom", venv.subcommands(cwd=checkout))
        self.assertIn("dicom", venv.subcommands(cwd=checkout, env=environment(PYTHONPATH=".")))

    def test_from_elsewhere(self) -> None:
        """So it does from another directory, and the options of dicom are shown."""
        venv, env = Venv(self), environment(PYTHONPATH=str(copy_of_checkout(self)))
        self.assertIn("dicom", venv.subcommands(env=env))
        self.assertIn("--aet=", venv.twistd("dicom", "--help", env=env))


class WheelTests(SynchronousTestCase):
    """A wheel, and what it holds."""

    skip = cannot_install()

    def test_installed(self) -> None:
        """Installed from a wheel, twistd and twist have dicom from any directory, in the same version."""
        venv = Venv(self)
        venv.install(str(build(self, "wheel")))
        self.assertIn("dicom", venv.subcommands())
        self.assertIn("--aet=", venv.twistd("dicom", "--help"))
        self.assertIn("--aet=", venv.twist("dicom", "--help"))
        self.assertEqual(venv.evaluate("dicomtw.__version__"), dicomtw.__version__)
        found = Path(venv.evaluate("dicomtw.__file__"))
        self.assertTrue(found.is_relative_to(venv.packages), found)

    def test_contents(self) -> None:
        """It holds the package, the mark that it is typed, the plugin and the licence, and nothing else."""
        with zipfile.ZipFile(build(self, "wheel")) as wheel:
            names = set(wheel.namelist())
            (metadata,) = (wheel.read(name).decode() for name in names if name.endswith("/METADATA"))
        info = f"dicomtw-{dicomtw.__version__}.dist-info/"
        code = {name for name in names if not name.startswith(info)}
        expected = {
            str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "dicomtw").rglob("*.py") if path.is_file()
        }
        data = {
            "dicomtw/py.typed",
            "dicomtw/encoding/dictionary.txt",
            "dicomtw/security/ffdhe3072.pem",
        }
        plugins = {f"twisted/plugins/dicomtw_{name}.py" for name in ("plugin", "endpoints", "auth")}
        self.assertEqual(code, expected | data | plugins)
        self.assertTrue(any(name.startswith(info) and name.endswith("LICENSE") for name in names))
        self.assertEqual(HeaderParser().parsestr(metadata)["Version"], dicomtw.__version__)


class SdistTests(SynchronousTestCase):
    """A source distribution."""

    skip = cannot_install()

    def test_contents(self) -> None:
        """It holds what building, testing and deploying take, and nothing that a run left behind."""
        with tarfile.open(build(self, "sdist")) as sdist:
            names = {name.partition("/")[2] for name in sdist.getnames()}
        for name in (
            "LICENSE",
            "README.rst",
            "conf/pmod.toml",
            "conf/dicomtw.tac",
            "docs/options.rst",
            "dicomtw/py.typed",
            "tests/packaging/test_plugin.py",
            "twisted/plugins/dicomtw_plugin.py",
            "twisted/plugins/dicomtw_endpoints.py",
            "twisted/plugins/dicomtw_auth.py",
        ):
            self.assertIn(name, names)
        left = {name for name in names if name.endswith((".pyc", "dropin.cache")) or "__pycache__" in name}
        self.assertEqual(left, set())


class EditableTests(SynchronousTestCase):
    """``pip install -e .``"""

    skip = cannot_install()

    def test_installed(self) -> None:
        """Installed editable, it is found from any directory, and is the checkout's code."""
        venv, checkout = Venv(self), copy_of_checkout(self)
        venv.install("-e", ".", cwd=checkout)
        self.assertIn("dicom", venv.subcommands())
        self.assertIn("--aet=", venv.twist("dicom", "--help"))
        self.assertEqual(Path(venv.evaluate("dicomtw.__file__")), checkout / "dicomtw" / "__init__.py")


class DeclarationTests(SynchronousTestCase):
    """What setup.cfg says."""

    def test_packages(self) -> None:
        """Its list of packages is the directories with code, and the plugin's, which is no package."""
        setup = configparser.ConfigParser()
        setup.read(CHECKOUT / "setup.cfg", "utf-8")
        packages = {
            str(path.parent.relative_to(CHECKOUT)).replace(os.sep, ".")
            for path in (CHECKOUT / "dicomtw").rglob("*.py")
        }
        self.assertEqual(set(setup["options"]["packages"].split()), packages | {"twisted.plugins"})
        for directory in ("twisted", "twisted/plugins"):
            self.assertFalse((CHECKOUT / directory / "__init__.py").exists(), f"{directory} is Twisted's")
