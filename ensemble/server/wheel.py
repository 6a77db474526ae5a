"""What makes the server's binary runnable here: the machine, the nvidia-pytriton wheel and libpython.

Only the wheel's binary, Python backend and libraries are used, never its Python API.
"""

import importlib.metadata
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from ensemble.server.server_error import ServerError
from ensemble.settings import ROOT

DISTRIBUTION = "nvidia-pytriton"
INSTALL = "pip install --no-deps nvidia-pytriton==0.7.0"
MIN_GLIBC = (2, 35)
# numpy < 2, which the wheel's Python backend needs, is built for no later Python.
PYTHONS = ((3, 11), (3, 12))


@dataclass(kw_only=True, slots=True, frozen=True)
class Host:
    """What of a machine decides whether the embedded server can run on it."""

    glibc: str = field(default_factory=lambda: os.confstr("CS_GNU_LIBC_VERSION") or "unknown")
    """The C library, such as `glibc 2.36`."""
    python: tuple[int, int] = sys.version_info[:2]
    """Major and minor version of the interpreter."""
    numpy: str = np.__version__
    """Version of numpy that the nodes import."""

    def check(self) -> None:
        """Raises `ServerError` naming the first requirement that this machine misses."""
        if _version(self.glibc) < MIN_GLIBC:
            raise ServerError(
                f"C library is {self.glibc}; allowed: glibc 2.35 or newer (Ubuntu 22.04, Debian 12)"
            )
        if self.python not in PYTHONS:
            raise ServerError(
                f"Python is {_dotted(self.python)}; allowed: {' or '.join(map(_dotted, PYTHONS))}"
            )
        if _version(self.numpy) >= (2,):
            raise ServerError(
                f"numpy is {self.numpy}; allowed: below 2 (the Python backend makes empty tensors of it): "
                "pip install numpy==1.26.4"
            )


@dataclass(kw_only=True, slots=True, frozen=True)
class Wheel:
    """The installed nvidia-pytriton wheel."""

    version: str
    """Version of the wheel, which fixes the version of Triton."""
    server: Path
    """Folder of the binary, the backends and the stubs."""
    libraries: Path
    """Folder of the shared libraries that the wheel brought along."""

    @classmethod
    def find(cls, distribution: str = DISTRIBUTION) -> Self:
        """The wheel of this environment. Raises `ServerError` when it is not installed."""
        try:
            installed = importlib.metadata.distribution(distribution)
        except importlib.metadata.PackageNotFoundError:
            raise ServerError(f"{distribution} is not installed; run: {INSTALL}") from None
        site_packages = Path(str(installed.locate_file("")))
        return cls(
            version=installed.version,
            server=site_packages / "pytriton" / "tritonserver",
            libraries=site_packages / "nvidia_pytriton.libs",
        )

    @property
    def binary(self) -> Path:
        """The server's executable. Raises `ServerError` when it is not there."""
        path = self.server / "bin" / "tritonserver"
        if not path.is_file():
            raise ServerError(f"tritonserver is missing at {path}; run: {INSTALL} --force-reinstall")
        return path

    def backends(self, python: tuple[int, int], into: Path = ROOT / "build" / "triton") -> Path:
        """A backend folder whose Python backend runs `python`, made once under `into`.

        Safe when several launchers make it at once: it appears whole, by a rename.
        """
        ready = into / f"{self.version}-python{_dotted(python)}" / "backends"
        if ready.is_dir():
            return ready
        ready.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=ready.parent))
        draft.chmod(0o755)
        backend = draft / "python"
        shutil.copytree(
            self.server / "backends" / "python", backend, ignore=shutil.ignore_patterns("__pycache__")
        )
        Path(shutil.copy2(self._stub(python), backend)).chmod(0o755)
        try:
            draft.rename(ready)
        except OSError:
            shutil.rmtree(draft)
            if not ready.is_dir():
                raise
        return ready

    def _stub(self, python: tuple[int, int]) -> Path:
        return self.server / "python_backend_stubs" / _dotted(python) / "triton_python_backend_stub"


def find_libpython(python: tuple[int, int], folders: Sequence[Path] | None = None) -> Path:
    """The shared library of the interpreter, which the stub links to.

    Raises:
        ServerError: no folder has it, as when Python was built without shared libraries.
    """
    name = f"libpython{_dotted(python)}.so.1.0"
    for folder in _library_folders() if folders is None else folders:
        if (folder / name).is_file():
            return folder / name
    raise ServerError(
        f"{name} is missing; install it (apt-get install libpython{_dotted(python)}) "
        "or use a Python built with --enable-shared"
    )


def _library_folders() -> list[Path]:
    configured = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    return [configured, configured / multiarch, Path(sys.base_prefix) / "lib", Path("/usr/lib") / multiarch]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _dotted(python: tuple[int, int]) -> str:
    return f"{python[0]}.{python[1]}"
