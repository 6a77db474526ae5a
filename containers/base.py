"""A base image made of Debian's packages, where the registry that has Python's cannot be reached."""

import tempfile
from pathlib import Path

from containers.engine import Engine

SUITE = "bookworm"
"""As the base image that docker/Dockerfile.cpu names."""
PACKAGES = ("ca-certificates", "libpython3.11", "python3", "python3-venv")
IMAGE = f"localhost/unipinrec-base:{SUITE}"


def make_base(engine: Engine) -> str:
    """Return the name of the base image, made unless it is there. Needs root and mmdebstrap.

    Raises:
        EngineError: mmdebstrap is not installed or fails.
    """
    if not engine.succeeds("image", "inspect", IMAGE):
        with tempfile.TemporaryDirectory() as folder:
            tar = str(Path(folder) / "base.tar")
            choices = ["--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
            excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")]
            engine.run(*choices, *excluded, SUITE, tar, program="mmdebstrap")
            engine.run("import", tar, IMAGE)
    return IMAGE
