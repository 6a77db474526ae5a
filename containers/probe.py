"""Run inside a container: prints how it is confined and bounded, as JSON. Needs nothing but Python."""

import json
import os
from pathlib import Path

LIMITS = {
    "memory": ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    "cpu": ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
}
"""Where the kernel tells them: control groups of version 2, then of version 1."""
PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def status() -> dict[str, str]:
    """What the kernel says of the container's first process."""
    lines = Path("/proc/1/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limit(name: str) -> list[str]:
    """The words of a limit's file; none where there is no such file."""
    for path in map(Path, LIMITS[name]):
        if path.is_file():
            return path.read_text().split()
    return []


def cores() -> float | None:
    """Cores that may be used; None without a limit."""
    words = limit("cpu")
    if not words or words[0] in ("max", "-1"):
        return None
    period = words[1] if len(words) > 1 else PERIOD.read_text()
    return int(words[0]) / int(period)


def mounts() -> dict[str, dict[str, int | bool]]:
    """Each mounted folder, the bytes that its file system holds, and whether it can be written to."""
    folders = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    held = {folder: os.statvfs(folder) for folder in folders if Path(folder).is_dir()}
    return {
        folder: {"bytes": has.f_blocks * has.f_frsize, "read_only": bool(has.f_flag & os.ST_RDONLY)}
        for folder, has in held.items()
    }


def main() -> None:
    """Print it."""
    first = status()
    memory = limit("memory")
    found = {
        "user": f"{os.getuid()}:{os.getgid()}",
        "capabilities": int(first["CapEff"], 16) | int(first["CapPrm"], 16) | int(first["CapBnd"], 16),
        "no_new_privileges": first["NoNewPrivs"] == "1",
        "mounts": mounts(),
        "memory": int(memory[0]) if memory and memory[0].isdigit() else None,
        "cpus": cores(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
