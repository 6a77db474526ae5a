"""The pip settings of this host, for a build on a host that reaches packages in its own way."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PACKAGE_INDEX = "https://pypi.org/simple"
TORCH = "torch==2.13.0"
"""Whichever build of it the settings lead to."""
KEPT = ("cert", "find-links", "timeout", "trusted-host")
"""What a build takes over as it is."""


def pip_settings() -> dict[str, str]:
    """Return name and value of what `pip config` lists; the environment comes before a file."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    pairs = [line.partition("=") for line in listed.splitlines()]
    ranked = sorted(pairs, key=lambda pair: pair[0].startswith(":env:"))
    return {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, _, value in ranked}


def build_options(settings: Mapping[str, str], folder: Path) -> list[str]:
    """Return options of `podman build` that give the build these settings; write a pip.conf to `folder`.

    Folders and files that they name are mounted at their own paths, read-only. Indexes in folders are left
    out: their pages lead to files elsewhere.
    """
    kept = {name: settings[name] for name in KEPT if name in settings}
    extra = [url for url in settings.get("extra-index-url", "").split() if not url.startswith("file:")]
    if extra:
        kept["extra-index-url"] = " ".join(extra)
    configuration = folder / "pip.conf"
    configuration.write_text("\n".join(["[global]", *(f"{name} = {kept[name]}" for name in kept)]) + "\n")
    named = [Path(part) for value in kept.values() for part in value.split() if part.startswith("/")]
    index = settings.get("index-url", PACKAGE_INDEX)
    return [
        f"--volume={configuration.resolve()}:/etc/pip.conf:ro",
        *(f"--volume={path}:{path}:ro" for path in named if path.exists()),
        f"--build-arg=TORCH={TORCH}",
        f"--build-arg=TORCH_INDEX={index}",
        f"--build-arg=PACKAGE_INDEX={index}",
    ]
