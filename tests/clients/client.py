"""An outside client: what installs it, what runs its script, and what came out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["HOMES", "SCRIPTS", "Client", "NodeClient", "PythonClient", "Suite"]

HOMES = Path(__file__).parents[2] / ".clients"
"""Each client has an environment of its own in here."""
SCRIPTS = Path(__file__).parent / "scripts"


@dataclass
class Client:
    """A client, what its package manager is asked for, its script; steps that passed, steps that failed."""

    name: str
    wants: str
    script: str
    version: str = ""
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """Where it is installed."""
        return HOMES / self.name

    @property
    def missing(self) -> str:
        """What must be there before it can be installed, and is not."""
        return ""

    def install(self) -> None:
        """Make its environment, once, and learn its version."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """What runs its script."""
        raise NotImplementedError


class PythonClient(Client):
    """A package of pip; the first that is wanted names the version."""

    @property
    def _python(self) -> Path:
        return self.home / "bin" / "python"

    def install(self) -> None:
        """A virtual environment."""
        if not self._python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(self.home)], check=True)
            pip = [str(self._python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *self.wants.split()], check=True)
        package = self.wants.split()[0].split("=")[0].split("~")[0].split(">")[0].split("[")[0]
        ask = f"import importlib.metadata as m; print(m.version({package!r}))"
        told = subprocess.run([str(self._python), "-c", ask], capture_output=True, text=True, check=True)
        self.version = f"{package} {told.stdout.strip()}"

    def command(self) -> list[str]:
        """Its script, with its interpreter."""
        return [str(self._python), str(SCRIPTS / self.script)]


class NodeClient(Client):
    """Packages of npm. Its script is copied beside them, for that is where node looks for what it imports."""

    def install(self) -> None:
        """A folder of modules."""
        modules = self.home / "node_modules"
        if not modules.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            quiet = ["--silent", "--no-fund", "--no-audit", "--no-package-lock"]
            subprocess.run(["npm", "install", *quiet, "--prefix", str(self.home), *self.wants.split()], check=True)
        versions = []
        for wanted in self.wants.split():
            package = wanted[0] + wanted[1:].partition("@")[0]
            told = json.loads((modules / package / "package.json").read_text(encoding="utf-8"))
            versions.append(f"{package} {told['version']}")
        self.version = ", ".join(versions)

    def command(self) -> list[str]:
        """Its script, with node."""
        for one in SCRIPTS.glob("*.mjs"):
            shutil.copy(one, self.home)
        return ["node", str(self.home / self.script)]


class Suite(NodeClient):
    """The Open Responses compliance suite, of a git repository that OPEN_RESPONSES names: it is in no registry.

    A clone of it lies beside what its program needs: a schema library, and what runs TypeScript.
    """

    @property
    def missing(self) -> str:
        """The path of the repository."""
        return "" if os.environ.get("OPEN_RESPONSES") else "OPEN_RESPONSES names no git repository"

    def install(self) -> None:
        """The modules, and the clone."""
        super().install()
        suite = self.home / "suite"
        if not suite.exists():
            command = ["git", "clone", "--quiet", "--no-hardlinks", os.environ["OPEN_RESPONSES"], str(suite)]
            subprocess.run(command, check=True)
        commit = ["git", "-C", str(suite), "log", "-1", "--format=%h of %cs"]
        told = subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
        released = max((folder.name for folder in suite.glob("public/openapi/*-*-*")), default="")
        self.version = f"specification {released}, commit {told}"
