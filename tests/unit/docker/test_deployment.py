"""What docker/ holds keeps to its formats' specifications, and to what it promises about confinement."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from containers.proxy import CONFIGURATION
from ensemble.settings import ROOT, ServingSettings
from tests.support.tools import tool

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
SCRIPTS = [*sorted(DOCKER.glob("*.sh")), ROOT / "tests/served/confined.sh", ROOT / ".ci/run"]
COMPOSE = DOCKER / "compose.yaml"


def checked(*command: str | Path) -> None:
    """Runs a checker of this environment; its complaints are the failure."""
    program = Path(sys.executable).parent / command[0]
    result = subprocess.run([program, *command[1:]], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


def test_dockerfiles_pass_hadolint() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.cpu", "Dockerfile.gpu"]
    checked("hadolint", *DOCKERFILES)


def test_scripts_pass_shellcheck() -> None:
    checked("shellcheck", *SCRIPTS)
    assert all(os.access(script, os.X_OK) for script in SCRIPTS[:-1])


def test_the_compose_file_passes_yamllint_and_its_specification() -> None:
    checked("yamllint", "--strict", COMPOSE)
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_haproxy_accepts_the_proxys_configuration(tmp_path: Path) -> None:
    haproxy, openssl = tool("haproxy"), tool("openssl")
    pem = tmp_path / "server.pem"
    made = ["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost"]
    subprocess.run(
        [openssl, *made, "-keyout", pem, "-out", tmp_path / "c.pem"], check=True, capture_output=True
    )
    pem.write_text(pem.read_text() + (tmp_path / "c.pem").read_text())
    keys = tmp_path / "keys"
    keys.write_text(f"{'0' * 64}\n")
    result = subprocess.run(
        [haproxy, "-c", "-f", CONFIGURATION],
        env={
            "UNIPINREC_PROXY_CERTIFICATE": str(pem),
            "UNIPINREC_PROXY_KEYS": str(keys),
            "UNIPINREC_PROXY_ADMIN_KEYS": str(keys),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_every_service_is_confined_and_bounded(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert service["profiles"], name


def test_every_published_port_is_on_loopback_unless_told_otherwise(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith(("127.0.0.1:", "${UNIPINREC_PUBLISH:-127.0.0.1}:")) for port in ports)


def test_every_image_is_pinned(services: dict[str, Any]) -> None:
    foreign = [service["image"] for service in services.values() if "build" not in service]
    assert all(image.rpartition(":")[2][-1].isdigit() for image in foreign)


def test_what_our_images_run_reads_bundles_that_it_cannot_write(services: dict[str, Any]) -> None:
    stores = "${UNIPINREC_STORES:-stores}:/stores"
    volumes = {"server-gpu": ["compile-cache:/compile-cache"], "loadtest": ["reports:/reports"]}
    ours = {name: service for name, service in services.items() if "build" in service}
    assert ours.keys() == {"server", "server-gpu", "replica-1", "replica-2", "replica-3", "loadtest"}
    for name, service in ours.items():
        bundles, *own = service["volumes"]
        assert own == [stores, *volumes.get(name, [])]
        assert bundles["read_only"] is True
        assert bundles["target"] == "/bundles"
        assert name == "loadtest" or service["shm_size"]


def test_volumes_that_are_written_belong_to_our_user() -> None:
    owned = "install --directory --owner=10001 --group=10001"
    cpu, gpu = ((DOCKER / f"Dockerfile.{name}").read_text() for name in ("cpu", "gpu"))
    assert f"{owned} /reports" in cpu
    assert f"{owned} --mode=0700 /stores" in cpu
    assert f"{owned} --mode=0700 /compile-cache /stores" in gpu
    assert all("UNIPINREC_HISTORIES=/stores/histories\n" in image for image in (cpu, gpu))
    assert all(" UNIPINREC_POLICY_ALPHAS=/stores/policy-alphas.json " in image for image in (cpu, gpu))


def test_replicas_share_a_store_and_so_a_pid_namespace(services: dict[str, Any]) -> None:
    for name, service in services.items():
        replica = name.startswith("replica-")
        assert (service.get("pid") == "host") == replica, name
        # An init has to be the first process of its namespace.
        assert not (replica and service["init"]), name


def test_the_gpu_service_serves_the_gpu_profile_and_waits_for_the_compiler(services: dict[str, Any]) -> None:
    image = (DOCKER / "Dockerfile.gpu").read_text()
    assert image.endswith('\nCMD ["--profile", "gpu"]\n')
    assert "command" not in services["server-gpu"]
    seconds = ServingSettings.model_fields["load_timeout_s"].default
    assert services["server-gpu"]["healthcheck"]["start_period"] == f"{seconds}s"
    assert f"--start-period={seconds}s" in image
    assert "UNIPINREC_COMPILE_CACHE=/compile-cache" in image


def test_the_example_lists_the_variables_of_the_compose_file() -> None:
    lines = (DOCKER / "example.env").read_text().splitlines()
    listed = {line.split("=")[0] for line in lines if not line.startswith("#")}
    text = COMPOSE.read_text()
    used = {part.split(":")[0].split("}")[0] for part in text.split("${")[1:]}
    assert listed == used
