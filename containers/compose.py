"""A service of docker/compose.yaml, as options of `docker run` or `podman run`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


class ComposeError(ValueError):
    """The compose file says something that has no translation here; one line."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Service:
    """One service, with the variables of the compose file filled in."""

    name: str
    keys: Mapping[str, Any]

    @classmethod
    def read(cls, name: str, variables: Mapping[str, str], file: Path = COMPOSE) -> "Service":
        """The service `name`; `variables` are those that `docker compose` takes from its environment."""
        service = yaml.safe_load(file.read_text())["services"][name]
        return cls(name=name, keys=_filled(service, variables))

    @property
    def options(self) -> list[str]:
        """What a run needs for all that the service says.

        Raises:
            ComposeError: the service has a key that is not known here, so that none is left out unseen.
        """
        options: list[str] = []
        for key, value in self.keys.items():
            if key not in NOT_OPTIONS:
                options += _options(self.name, key, value)
        return options

    @property
    def health_command(self) -> list[str]:
        """The program and arguments of the health check."""
        kind, *command = self.keys["healthcheck"]["test"]
        if kind != "CMD":
            raise ComposeError(f"healthcheck of {self.name} is {kind}; allowed here: CMD")
        return [str(part) for part in command]

    @property
    def health_timeout_s(self) -> float:
        """Seconds after which an engine would end a single check."""
        return seconds(self.keys["healthcheck"]["timeout"])

    @property
    def healthy_within_s(self) -> float:
        """Seconds from the start after which an engine would call a silent server unhealthy."""
        check = self.keys["healthcheck"]
        return seconds(check["start_period"]) + int(check["retries"]) * seconds(check["interval"])

    @property
    def grace_s(self) -> float:
        """Seconds that a stop leaves before the container is killed."""
        return seconds(self.keys["stop_grace_period"])

    @property
    def cpus(self) -> float:
        """Cores that it may use."""
        return float(self._limits["cpus"])

    @property
    def memory(self) -> int:
        """Bytes that it may use."""
        return size(self._limits["memory"])

    @property
    def shared_memory(self) -> int:
        """Bytes of /dev/shm."""
        return size(self.keys["shm_size"])

    @property
    def temporary_files(self) -> dict[str, int]:
        """The folders in memory and the bytes that each may hold."""
        mounts = [mount.partition(":") for mount in self.keys["tmpfs"]]
        found = {path: re.search(r"size=(\w+)", choices) for path, _, choices in mounts}
        return {path: size(match[1]) for path, match in found.items() if match}

    @property
    def read_only_folders(self) -> list[str]:
        """The mounted folders that it may only read."""
        mounts = [volume for volume in self.keys["volumes"] if isinstance(volume, dict)]
        return [mount["target"] for mount in mounts if mount.get("read_only")]

    @property
    def _limits(self) -> Mapping[str, Any]:
        limits: Mapping[str, Any] = self.keys["deploy"]["resources"]["limits"]
        return limits


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Fills `${NAME:-default}`: an empty variable takes the default too, as compose has it."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: variables.get(match[1]) or match[2], text)


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    match value:
        case str():
            return interpolate(value, variables)
        case dict():
            return {key: _filled(part, variables) for key, part in value.items()}
        case list():
            return [_filled(part, variables) for part in value]
    return value


def seconds(text: str) -> float:
    """Seconds of a duration with one unit, as `40s`."""
    match = re.fullmatch(r"(\d+)([smh])", text)
    if match is None:
        raise ComposeError(f"duration is {text!r}; allowed here: a number and s, m or h")
    return float(int(match[1]) * SECONDS[match[2]])


def size(text: str) -> int:
    """Bytes of a size, as `256m` or `2gb`."""
    match = re.fullmatch(r"(\d+)([kmg]?)b?", str(text).lower())
    if match is None:
        raise ComposeError(f"size is {text!r}; allowed here: a number and k, m or g")
    return int(match[1]) * UNITS[match[2]]


def _options(service: str, key: str, value: Any) -> Sequence[str]:
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
    raise ComposeError(f"service {service} has {key}: {value!r}, which image-check cannot translate")


def _bind(volume: Mapping[str, Any]) -> str:
    source = (COMPOSE.parent / volume["source"]).resolve()
    return f"{source}:{volume['target']}{':ro' if volume.get('read_only') else ''}"
