"""A profile replaces the configurations of the nodes that have one, and of no other."""

import shutil
from pathlib import Path

from unipinrec_client import GrpcClient

from ensemble.graph import MODEL_REPOSITORY
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import Endpoints
from ensemble.server.launcher import UserCanary
from ensemble.settings import ServingSettings
from tests.conftest import Exported
from tests.served.nodes import NODES, instances_of
from tests.served.requests import stored
from tests.support.answers import Likeness, assert_alike


def gpu_profile_on_a_cpu(folder: Path) -> Path:
    """The committed repository, whose profile `gpu` asks for no GPU."""
    repository = shutil.copytree(MODEL_REPOSITORY, folder / "models")
    for path in repository.glob("*/configs/gpu.pbtxt"):
        text = path.read_text()
        assert text.count("KIND_GPU, gpus: [ 0 ]") == 1
        path.write_text(text.replace("KIND_GPU, gpus: [ 0 ]", "KIND_CPU"))
    return repository


def test_triton_takes_the_profile_where_there_is_one_and_the_default_elsewhere(
    server: EmbeddedServer, exported: Exported, promised: Likeness, tmp_path: Path
) -> None:
    profiled = EmbeddedServer(
        model_repository=gpu_profile_on_a_cpu(tmp_path),
        settings=ServingSettings(bundle=exported.bundle, histories=exported.histories),
        endpoints=Endpoints.free(),
        profile="gpu",
        log_path=tmp_path / "server.log",
    )
    with profiled:
        profiled.start()
        profiled.wait_until_serving(UserCanary())
        assert instances_of(profiled) == dict.fromkeys(NODES, 1)
        with GrpcClient(profiled.grpc_url) as there, GrpcClient(server.grpc_url) as here:
            requests = [stored(exported, user) for user in range(8)]
            answers = ([client.recommend(request) for request in requests] for client in (there, here))
            assert_alike(*answers, promised)
