"""A node is added as CONTRIBUTING.md says: its file, its folder in the repository, a step of the ensemble."""

import shutil
from pathlib import Path

import numpy as np
from unipinrec_client import GrpcClient

from ensemble.graph import MODEL_REPOSITORY, call_in_process, ensembles_in
from ensemble.loaded_bundle import LoadedBundle
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import Endpoints
from ensemble.server.launcher import default_canaries
from ensemble.settings import ServingSettings
from tests.conftest import Exported
from tests.served.requests import stored
from tests.support.halving_node import HalvingNode

CONFIG = """
backend: "python"
max_batch_size: 16
input [ { name: "SCORES" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true } ]
output [ { name: "HALVED" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { count: 1, kind: KIND_CPU } ]
dynamic_batching { }
"""
STEP = """,
    {
      model_name: "halving"
      model_version: -1
      input_map { key: "SCORES" value: "FULL_SCORES" }
      output_map { key: "HALVED" value: "SCORES" }
    }
  ]
}
"""


def repository_with_a_node(folder: Path) -> Path:
    repository = shutil.copytree(MODEL_REPOSITORY, folder / "models")
    node = repository / "halving"
    (node / "1").mkdir(parents=True)
    (node / "config.pbtxt").write_text(CONFIG)
    entry = (repository / "ann" / "1" / "model.py").read_text()
    for old, new in (("ensemble.nodes.ann", "tests.support.halving_node"), ("AnnNode", "HalvingNode")):
        entry = entry.replace(old, new)
    (node / "1" / "model.py").write_text(entry)
    ensemble = repository / "recommend" / "config.pbtxt"
    steps, end = ensemble.read_text().rstrip().rsplit("\n  ]\n", 1)
    assert end == "}"
    full = steps.replace('{ key: "SCORES" value: "SCORES" }', '{ key: "SCORES" value: "FULL_SCORES" }')
    ensemble.write_text(full + STEP)
    return repository


def test_a_node_needs_a_file_a_folder_and_a_step(
    server: EmbeddedServer, exported: Exported, tmp_path: Path
) -> None:
    repository = repository_with_a_node(tmp_path)
    extended = EmbeddedServer(
        model_repository=repository,
        settings=ServingSettings(bundle=exported.bundle, histories=exported.histories),
        endpoints=Endpoints.free(),
        log_path=tmp_path / "server.log",
    )
    with extended:
        extended.start()
        for canary in default_canaries(extended):
            extended.wait_until_serving(canary)
        with GrpcClient(extended.grpc_url) as halving, GrpcClient(server.grpc_url) as client:
            halved, right = (one.recommend(stored(exported, 3)).recommendations for one in (halving, client))
    assert [item.item_id for item in halved] == [item.item_id for item in right]
    assert np.allclose([2 * item.score for item in halved], [item.score for item in right], atol=1e-5)


def test_the_same_step_runs_in_one_process(exported: Exported, tmp_path: Path) -> None:
    graph = ensembles_in(repository_with_a_node(tmp_path))["recommend"]
    node = HalvingNode(LoadedBundle.open(exported.bundle), ServingSettings())
    step = graph.steps[-1]
    assert step.node == "halving"
    made = call_in_process({"halving": node})("halving", {"SCORES": np.float32([[1.0, 0.5]])})
    assert made["HALVED"].tolist() == [[0.5, 0.25]]
