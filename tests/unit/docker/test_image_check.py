"""What `image-check` reads from the compose file, what it compares, and how it fails; `.ci/run` runs it."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage

import pytest
import typer
from typer.testing import CliRunner

from commands.errors import NO_ENGINE
from commands.image_check import image_check
from containers.compose import COMPOSE, ComposeError, Service, interpolate, seconds, size
from containers.confinement import promises
from containers.host_pip import TORCH, build_options
from containers.probe import main as probe
from containers.shared_store import KNOWN_USER, append_known_user, shared_store
from ensemble.settings import ROOT, SHARED_MEMORY
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.conftest import Exported

GIB = 2**30
AS_ROOT = {
    "user": "0:0",
    "capabilities": 0,
    "no_new_privileges": True,
    "memory": 8 * GIB,
    "cpus": float(min(4, os.cpu_count() or 1)),
    "mounts": {
        "/": {"bytes": 1, "read_only": True},
        "/bundles": {"bytes": 1, "read_only": False},
        str(Path("/", "tmp")): {"bytes": 2**28, "read_only": False},
        str(SHARED_MEMORY): {"bytes": 2 * GIB, "read_only": False},
    },
}
"""What the probe would print of a container that runs as root and may write to the bundles."""
BROKEN = ["user: 0:0; wanted: 10001:10001", "/bundles read-only: False; wanted: True"]


@pytest.fixture
def server() -> Service:
    return Service.read(
        "server",
        {"UNIPINREC_BUNDLES": "/some/bundles", "UNIPINREC_STORES": "/some/stores", "UNIPINREC_CPUS": "2"},
    )


def check(*options: str) -> tuple[int, list[str]]:
    app = typer.Typer()
    app.command()(image_check)
    result = CliRunner().invoke(app, list(options))
    return result.exit_code, result.output.splitlines()


def test_the_server_is_run_as_the_compose_file_has_it(server: Service) -> None:
    options = [option for option in server.options if not option.startswith("--env=")]
    assert options == [
        "--read-only=true",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges:true",
        "--init=true",
        "--tmpfs=/tmp:size=256m,mode=1777",
        "--shm-size=2gb",
        "--volume=/some/bundles:/bundles:ro",
        "--volume=/some/stores:/stores",
        "--cpus=2",
        "--memory=8g",
    ]
    assert "--env=UNIPINREC_EXIT_TIMEOUT_S=20" in server.options
    assert "--env=UNIPINREC_LOG_LEVEL=" in server.options
    assert server.health_command == ["/opt/unipinrec/docker/healthcheck.sh"]
    assert (server.health_timeout_s, server.healthy_within_s, server.grace_s) == (10, 120 + 3 * 15, 40)


def test_a_replica_is_run_in_the_hosts_pid_namespace_without_an_init() -> None:
    options = Service.read("replica-1", {}).options
    assert {"--pid=host", "--init=false"} <= set(options)
    assert "--volume=stores:/stores" in options


def test_a_key_without_a_translation_is_refused(tmp_path: Path) -> None:
    text = COMPOSE.read_text().replace("  init: true\n", "  ipc: host\n")
    (tmp_path / "compose.yaml").write_text(text)
    service = Service.read("server", {}, tmp_path / "compose.yaml")
    with pytest.raises(ComposeError, match=r"^service server has ipc: 'host', which image-check cannot"):
        _ = service.options


def test_an_empty_variable_takes_its_default() -> None:
    text = "${ONE:-1} ${TWO:-2} ${NONE:-}."
    assert interpolate(text, {"ONE": "", "TWO": "zwei"}) == "1 zwei ."


def test_durations_and_sizes_are_read_or_refused() -> None:
    assert [seconds("40s"), seconds("2m"), size("256m"), size("2gb"), size("8G")] == [
        40,
        120,
        2**28,
        2 * GIB,
        8 * GIB,
    ]
    with pytest.raises(ComposeError, match=r"^duration is '1m30s'; allowed here: "):
        seconds("1m30s")
    with pytest.raises(ComposeError, match=r"^size is '1\.5g'; allowed here: "):
        size("1.5g")


def test_a_promise_that_is_not_kept_is_named(server: Service) -> None:
    found = promises(server, AS_ROOT | {"memory": None, "cpus": 2.0})
    assert [str(promise) for promise in found if not promise.kept] == BROKEN
    (memory,) = [promise for promise in found if promise.what == "memory"]
    assert str(memory) == f"memory: {8 * GIB} wanted; this host does not enforce it"
    assert not replace(memory, found=GIB).kept


def test_the_probe_tells_what_the_kernel_says(capsys: pytest.CaptureFixture[str]) -> None:
    probe()
    found = json.loads(capsys.readouterr().out)
    assert found["user"] == f"{os.getuid()}:{os.getgid()}"
    assert found["mounts"]["/"]["bytes"] == disk_usage("/").total
    assert found["mounts"][str(SHARED_MEMORY)]["bytes"] == disk_usage(SHARED_MEMORY).total
    assert found.keys() == {"user", "capabilities", "no_new_privileges", "memory", "cpus", "mounts"}


def test_the_store_is_fed_from_here_and_may_be_written_by_any_user(exported: Exported) -> None:
    with shared_store() as folder:
        append_known_user(folder, exported.bundle)
        with LmdbHistoryStore(folder / "histories") as store:
            items = store.read(KNOWN_USER.encode())["item_id"].tolist()
        modes = {path.name: path.stat().st_mode & 0o777 for path in (folder / "histories").iterdir()}
    assert items == [1000 + 3 * row for row in range(5)]
    assert modes == {"data.mdb": 0o666, "lock.mdb": 0o666}
    assert not folder.exists()


def test_a_build_by_this_hosts_pip_mounts_what_its_settings_name(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    settings = {
        "find-links": f"{wheels} /not/there",
        "extra-index-url": f"file://{wheels}/simple https://more.example/simple",
        "index-url": "https://packages.example/simple",
        "constraint": "/some/constraints.txt",
    }
    options = build_options(settings, tmp_path)
    assert options == [
        f"--volume={tmp_path}/pip.conf:/etc/pip.conf:ro",
        f"--volume={wheels}:{wheels}:ro",
        f"--build-arg=TORCH={TORCH}",
        "--build-arg=TORCH_INDEX=https://packages.example/simple",
        "--build-arg=PACKAGE_INDEX=https://packages.example/simple",
    ]
    assert (tmp_path / "pip.conf").read_text().splitlines() == [
        "[global]",
        f"find-links = {wheels} /not/there",
        "extra-index-url = https://more.example/simple",
    ]


@pytest.mark.parametrize(("hardware", "local"), [("cpu", "+cpu"), ("gpu", "+cu130")])
def test_the_dockerfiles_have_the_pinned_torch_and_the_arguments(hardware: str, local: str) -> None:
    assert TORCH in (ROOT / "constraints.txt").read_text().splitlines()
    text = (ROOT / "docker" / f"Dockerfile.{hardware}").read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", text, re.MULTILINE))
    assert arguments["TORCH"] == TORCH + local
    assert {"TORCH_INDEX", "PACKAGE_INDEX"} <= arguments.keys()
    assert "PYTHON_IMAGE" in arguments or hardware == "gpu"


def test_without_an_engine_it_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, lines = check()
    assert (code, len(lines)) == (NO_ENGINE, 1)
    assert lines[0].startswith("image-check builds and runs an image, which needs a container engine; ")


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ({"build": "exit 125"}, "podman build ended with 125: see above"),
        ({"image": "echo 2000000001"}, "image takes 2,000,000,001 bytes; allowed: at most 2,000,000,000"),
        ({"exec": "exit 1"}, "NAME has ended; what it printed stands above"),
        (
            {"exec": f"echo '{json.dumps(AS_ROOT)}'"},
            f"container is not as the compose file has it: {'; '.join(BROKEN)}",
        ),
    ],
)
def test_what_goes_wrong_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: dict[str, str], message: str
) -> None:
    """The engine is a stand-in that answers each command as told."""
    ended = json.dumps({"Running": False, "ExitCode": 2})
    answers = {"image": "echo 1", "inspect": f"echo '{ended}'", "logs": "echo no such bundle"} | cases
    script = ["#!/bin/sh", 'case "$1" in', *(f"{name}) {does} ;;" for name, does in answers.items()), "esac"]
    (tmp_path / "podman").write_text("\n".join(script) + "\n")
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code, lines = check("--bundle", "some")
    assert (code, re.sub("^image-check-server-[0-9]+", "NAME", lines[-1])) == (1, message)
    assert ("no such bundle" in lines) == message.startswith("NAME")
    assert json.loads((tmp_path / "build/image-check/report.json").read_text())["bundle"] == "some"
