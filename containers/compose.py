"""A service of docker/compose.yaml, as options of `docker run` or `podman run`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ensemble.settings import ROOT

COMPOSE = ROOT / "docker" / "compose.yaml"
NOT_OPTIONS = {"image", "build", "profiles", "healthcheck", "stop_grace_period", "ports", "restart"}
"""Keys that are no option of a run here: the first five are read apart or choose what runs, ports belong to a
network of its own where this one is the host's, and a container that ends must be seen to have ended."""

SECONDS = {"s": 1, "m": 60, "h": 3600}
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}

Service = Mapping[str, Any]
"""What the compose file says of a service, by its keys there."""


class ComposeError(ValueError):
    """The compose file says something that has no translation here; one line."""


def read_service(name: str, variables: Mapping[str, str], file: Path = COMPOSE) -> Service:
    """Return the service `name`; `variables` are those that `docker compose` takes from its environment."""
    service: Service = filled(yaml.safe_load(file.read_text())["services"][name], variables)
    return service


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    """Return the value with each `${NAME:-default}` filled in: an empty variable takes the default too."""
    match value:
        case str():
            return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: variables.get(m[1]) or m[2], value)
        case dict():
            return {key: filled(part, variables) for key, part in value.items()}
        case list():
            return [filled(part, variables) for part in value]
    return value


def run_options(service: Service) -> list[str]:
    """Return what a run needs for all that the service says.

    Raises:
        ComposeError: the service has a key that is not known here, so that none is left out unseen.
    """
    options = [_options(key, value) for key, value in service.items() if key not in NOT_OPTIONS]
    return [option for group in options for option in group]


def seconds(text: str) -> float:
    """Return the seconds of a duration with one unit, as `40s`."""
    match = re.fullmatch(r"(\d+)([smh])", text)
    if match is None:
        raise ComposeError(f"duration is {text!r}; allowed here: a number and s, m or h")
    return float(int(match[1]) * SECONDS[match[2]])


def size(text: str) -> int:
    """Return the bytes of a size, as `256m` or `2gb`."""
    match = re.fullmatch(r"(\d+)([kmg]?)b?", str(text).lower())
    if match is None:
        raise ComposeError(f"size is {text!r}; allowed here: a number and k, m or g")
    return int(match[1]) * UNITS[match[2]]


def _options(key: str, value: Any) -> list[str]:
    match key, value:
        case (("read_only" | "init"), bool()):
            return [f"--{key.replace('_', '-')}={str(value).lower()}"]
        case (("cap_drop" | "security_opt" | "tmpfs"), list()):
            return [f"--{key.replace('_', '-')}={part}" for part in value]
        case "shm_size", _:
            return [f"--shm-size={value}"]
        case "environment", dict():
            return [f"--env={name}={text}" for name, text in value.items()]
        case "pid", "host":
            return ["--pid=host"]
        case "volumes", list() if all(
            isinstance(volume, str) or volume["type"] == "bind" for volume in value
        ):
            # The short form, a name or an absolute path, is the option's own.
            return [f"--volume={volume if isinstance(volume, str) else _bind(volume)}" for volume in value]
        case "deploy", {"resources": {"limits": {"cpus": cpus, "memory": memory, **more}}} if not more:
            return [f"--cpus={cpus}", f"--memory={memory}"]
    raise ComposeError(f"service has {key}: {value!r}, which image-check cannot translate")


def _bind(volume: Mapping[str, Any]) -> str:
    source = (COMPOSE.parent / volume["source"]).resolve()
    return f"{source}:{volume['target']}{':ro' if volume.get('read_only') else ''}"
