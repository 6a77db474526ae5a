"""What a node finds beside a request's tensors: its id, and its admin key, over both protocols."""

import http.client
import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http

from ensemble.graph import MODEL_REPOSITORY
from ensemble.server.embedded_server import EmbeddedServer
from tests.conftest import Exported, serving
from tests.support.echoing_node import CONFIG, NO_KEY

HEADER = "unipinrec-admin-key"
SENT = 'a "secret" of the test'


@pytest.fixture(scope="module")
def echoing(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server with one more model, which is in no ensemble."""
    folder = tmp_path_factory.mktemp("echoing")
    repository = shutil.copytree(MODEL_REPOSITORY, folder / "models")
    node = repository / "echoing"
    (node / "1").mkdir(parents=True)
    (node / "config.pbtxt").write_text(CONFIG)
    entry = (repository / "ann" / "1" / "model.py").read_text()
    entry = entry.replace("ensemble.nodes.ann", "tests.support.echoing_node")
    (node / "1" / "model.py").write_text(entry.replace("AnnNode", "EchoingNode"))
    with serving(exported, folder / "log", model_repository=repository, admin_key=SENT) as server:
        yield server


def ask(protocol: Any, url: str, users: int = 1, **told: Any) -> tuple[list[list[bytes]], bytes]:
    """The ids and the key that the node found."""
    tensor = protocol.InferInput("ANY", [users], "BYTES")
    tensor.set_data_from_numpy(np.array([b"{}"] * users, np.object_))
    with protocol.InferenceServerClient(url) as client:
        result = client.infer("echoing", [tensor], **told)
        return result.as_numpy("REQUEST_IDS").tolist(), result.as_numpy("KEYS")[0]


def over(server: EmbeddedServer) -> list[tuple[Any, str]]:
    return [
        (tritonclient.grpc, server.grpc_url),
        (tritonclient.http, server.http_url.removeprefix("http://")),
    ]


def test_every_user_has_the_requests_id(echoing: EmbeddedServer) -> None:
    for protocol, url in over(echoing):
        assert ask(protocol, url, users=3, request_id="7f") == ([[b"7f"]] * 3, NO_KEY)
        assert ask(protocol, url) == ([[b""]], NO_KEY)


def test_the_names_of_the_outputs_that_are_asked_for_are_told(echoing: EmbeddedServer) -> None:
    everything = ["ASKED", "KEYS", "REQUEST_IDS"]
    for protocol, url in over(echoing):
        for names, told in ((["ASKED"], ["ASKED"]), (["KEYS", "ASKED"], ["ASKED", "KEYS"]), ([], everything)):
            tensor = protocol.InferInput("ANY", [1], "BYTES")
            tensor.set_data_from_numpy(np.array([b"{}"], np.object_))
            wanted = [protocol.InferRequestedOutput(name) for name in names]
            with protocol.InferenceServerClient(url) as client:
                result = client.infer("echoing", [tensor], outputs=wanted)
            assert sorted(result.as_numpy("ASKED").tolist()) == [name.encode() for name in told]


def test_the_key_of_the_header_is_handed_on(echoing: EmbeddedServer) -> None:
    for protocol, url in over(echoing):
        assert ask(protocol, url, headers={HEADER: SENT})[1] == SENT.encode()
        assert ask(protocol, url, headers={f"{HEADER}-2": SENT, "unipinrec-user": "x"})[1] == NO_KEY
    http_url = over(echoing)[1][1]
    assert ask(tritonclient.http, http_url, headers={"Unipinrec-ADMIN-Key": SENT})[1] == SENT.encode()


def test_a_key_that_is_no_text_is_refused_alone(echoing: EmbeddedServer) -> None:
    tensor = {"name": "ANY", "datatype": "BYTES", "shape": [1], "data": ["{}"]}
    connection = http.client.HTTPConnection(over(echoing)[1][1])
    connection.request(
        "POST",
        "/v2/models/echoing/infer",
        body=json.dumps({"inputs": [tensor]}),
        headers={HEADER: b"secret \xe9"},
    )
    answer = connection.getresponse()
    assert answer.status == 400
    said = json.loads(answer.read())["error"]
    assert said.endswith(f"{HEADER} has bytes that are no text; allowed: UTF-8")
    connection.close()


def test_the_key_is_in_no_log_and_no_command_line(echoing: EmbeddedServer) -> None:
    for protocol, url in over(echoing):
        ask(protocol, url, headers={HEADER: "sent " + SENT})
    told = echoing.log_path.read_text()
    assert '"answered"' in told
    server = psutil.Process(echoing.pid)
    commands = [" ".join(process.cmdline()) for process in (server, *server.children(recursive=True))]
    assert len(commands) > 5
    environment = json.dumps(echoing.settings.as_environment()) + repr(echoing.settings)
    for text in (told, *commands, environment):
        assert SENT not in text
        assert json.dumps(SENT)[1:-1] not in text
    assert server.environ()["UNIPINREC_ADMIN_KEY"] == SENT
