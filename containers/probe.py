"""Run inside a container: prints how it is confined and bounded, as JSON. Needs nothing but Python."""

import json
import os
from pathlib import Path

# Control groups of version 2, then of version 1.
MEMORY = ("memory.max", "memory/memory.limit_in_bytes")
CPU = ("cpu.max", "cpu/cpu.cfs_quota_us")
PERIOD = "cpu/cpu.cfs_period_us"


def limit(*names: str) -> list[str]:
    """Return the words of the first of these files of a control group that is there; none without any."""
    files = [Path("/sys/fs/cgroup") / name for name in names]
    return next((file.read_text().split() for file in files if file.is_file()), [])


def cores() -> float | None:
    """Return the cores that may be used; None without a limit."""
    words = limit(*CPU)
    if not words or words[0] in ("max", "-1"):
        return None
    return int(words[0]) / int([*words, *limit(PERIOD)][1])


def mounts() -> dict[str, dict[str, int | bool]]:
    """Return for each mounted folder the bytes that its file system holds, and whether it is read-only."""
    folders = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    held = {folder: os.statvfs(folder) for folder in folders if Path(folder).is_dir()}
    return {
        folder: {"bytes": has.f_blocks * has.f_frsize, "read_only": bool(has.f_flag & os.ST_RDONLY)}
        for folder, has in held.items()
    }


def main() -> None:
    """Print it."""
    lines = Path("/proc/1/status").read_text().splitlines()
    first = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    memory = limit(*MEMORY)
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
