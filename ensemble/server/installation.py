"""The `tritonserver` that is run: the nvidia-pytriton wheel's, or that of NVIDIA's container.

Only the wheel's binary, Python backend and libraries are used, never its Python API.
"""

import importlib.metadata
import mmap
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from ensemble.server.server_error import ServerError
from ensemble.settings import ROOT

WHEEL = "nvidia-pytriton"
INSTALL = "pip install --no-deps nvidia-pytriton==0.7.0"
# numpy < 2, which the Python backend needs, is built for no later Python.
PYTHONS = ("3.11", "3.12")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB = Path("python") / "triton_python_backend_stub"


@dataclass(kw_only=True, slots=True, frozen=True)
class Installation:
    """What of a Triton server the launcher needs to run it."""

    binary: Path
    backends: Path
    """Folder of the backends, whose Python backend runs this interpreter."""
    libraries: Path
    """Folder of the shared libraries that came with the server."""
    libpython: Path
    """The interpreter's shared library, which the Python backend links to."""

    @classmethod
    def find(cls, home: Path | None, wheel: str = WHEEL) -> Self:
        """Return the server in the folder `home`, or that of the installed wheel where `home` is None. Raises
        `ServerError` if the machine misses a requirement, or the server is not there or runs another Python.
        """
        check_host()
        libpython = find_libpython()
        return cls._of_wheel(wheel, libpython) if home is None else cls._at(home, libpython)

    @classmethod
    def _of_wheel(cls, name: str, libpython: Path) -> Self:
        try:
            wheel = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise ServerError(f"{name} is not installed; run: {INSTALL}") from None
        packages = Path(str(wheel.locate_file("")))
        server = packages / "pytriton" / "tritonserver"
        binary = server / "bin" / "tritonserver"
        if not binary.is_file():
            raise ServerError(f"tritonserver is missing at {binary}; run: {INSTALL} --force-reinstall")
        return cls(
            binary=binary,
            backends=make_backends(server, ROOT / "build" / "triton" / f"{wheel.version}-python{PYTHON}"),
            libraries=packages / "nvidia_pytriton.libs",
            libpython=libpython,
        )

    @classmethod
    def _at(cls, home: Path, libpython: Path) -> Self:
        binary, backends = home / "bin" / "tritonserver", home / "backends"
        for needed in (binary, backends / STUB):
            if not needed.is_file():
                raise ServerError(
                    f"--triton-home is {home}, which has no {needed.relative_to(home)}; allowed: "
                    "a Triton installation with its Python backend, as /opt/tritonserver"
                )
        # An executable that links to a library names it.
        with (
            (backends / STUB).open("rb") as stub,
            mmap.mmap(stub.fileno(), 0, access=mmap.ACCESS_READ) as code,
        ):
            if code.find(libpython.name.encode()) < 0:
                raise ServerError(
                    f"--triton-home is {home}, whose Python backend does not run {libpython.name}; "
                    "run this command with the Python that it was built for"
                )
        return cls(binary=binary, backends=backends, libraries=home / "lib", libpython=libpython)


def check_host(*, glibc: str | None = None, python: str = PYTHON, numpy: str = np.__version__) -> None:
    """Raises `ServerError` for the first of these versions that the server cannot run with."""
    glibc = glibc or os.confstr("CS_GNU_LIBC_VERSION") or "unknown"
    if _version(glibc) < (2, 35):
        raise ServerError(f"C library is {glibc}; allowed: glibc 2.35 or newer (Ubuntu 22.04, Debian 12)")
    if python not in PYTHONS:
        raise ServerError(f"Python is {python}; allowed: {' or '.join(PYTHONS)}")
    if _version(numpy) >= (2,):
        raise ServerError(
            f"numpy is {numpy}; allowed: below 2 (the Python backend makes empty tensors of it): "
            "pip install numpy==1.26.4"
        )


def make_backends(server: Path, folder: Path, python: str = PYTHON) -> Path:
    """Return the folder of backends in `folder`, made once out of the wheel's `server` for one Python.
    Several launchers may make it at once: it appears whole, by a rename."""
    ready = folder / "backends"
    if ready.is_dir():
        return ready
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder))
    draft.chmod(0o755)
    backend = server / "backends" / "python"
    shutil.copytree(backend, draft / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(server / "python_backend_stubs" / python / STUB.name, draft / STUB)
    (draft / STUB).chmod(0o755)
    try:
        draft.rename(ready)
    except OSError:
        shutil.rmtree(draft)
        if not ready.is_dir():
            raise
    return ready


def find_libpython(folders: Iterable[Path] | None = None, python: str = PYTHON) -> Path:
    """Return the shared library of the interpreter, by default out of where this one's may be. Raises
    `ServerError` if no folder has it, as when Python was built without shared libraries."""
    if folders is None:
        configured = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
        multiarch = sysconfig.get_config_var("MULTIARCH") or ""
        folders = (
            configured,
            configured / multiarch,
            Path(sys.base_prefix) / "lib",
            Path("/usr/lib") / multiarch,
        )
    name = f"libpython{python}.so.1.0"
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ServerError(
        f"{name} is missing; install it (apt-get install libpython{python}) "
        "or use a Python built with --enable-shared"
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
