"""A Triton installation in a folder of its own, as in NVIDIA's container, serves like the embedded one."""

import shutil
from pathlib import Path

import psutil
import pytest
from unipinrec_client import GrpcClient

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.installation import Installation
from ensemble.server.server_error import ServerError
from tests.conftest import Exported, serving
from tests.served.requests import stored
from tests.support.answers import Likeness, assert_alike


@pytest.fixture(scope="module")
def triton_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, laid out as NVIDIA's container has them in /opt/tritonserver."""
    embedded = Installation.find(None)
    home = tmp_path_factory.mktemp("opt") / "tritonserver"
    (home / "bin").mkdir(parents=True)
    shutil.copy2(embedded.binary, home / "bin")
    (home / "backends").symlink_to(embedded.backends)
    (home / "lib").symlink_to(embedded.libraries)
    return home


def test_a_triton_home_answers_as_the_embedded_server_does(
    triton_home: Path,
    server: EmbeddedServer,
    exported: Exported,
    promised: Likeness,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNIPINREC_TRITON_HOME", str(triton_home))
    with serving(exported, tmp_path / "server.log") as other:
        assert psutil.Process(other.pid).exe() == str(triton_home / "bin" / "tritonserver")
        with GrpcClient(other.grpc_url) as there, GrpcClient(server.grpc_url) as here:
            requests = [stored(exported, user) for user in range(20)]
            answers = ([client.recommend(request) for request in requests] for client in (there, here))
            assert_alike(*answers, promised)


def test_a_folder_without_the_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ServerError, match=r"--triton-home is .*, which has no bin/tritonserver; allowed: a Triton"
    ):
        Installation.find(tmp_path)


def test_a_python_backend_for_another_python_is_refused(triton_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").symlink_to(triton_home / "bin")
    stub = tmp_path / "backends" / "python" / "triton_python_backend_stub"
    stub.parent.mkdir(parents=True)
    stub.write_bytes(b"libpython3.9.so.1.0")
    with pytest.raises(ServerError, match=r"whose Python backend does not run libpython3\.\d+\.so\.1\.0"):
        Installation.find(tmp_path)
