"""What a rollout is made of, without a server: names, written models, the control socket, what fits."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ensemble.graph import MODEL_REPOSITORY, Graph, read_config
from ensemble.server.control import Control, listening
from ensemble.server.control_client import SOCKET, command, find_control
from ensemble.server.node_set import FIRST, SECOND, NodeSet
from ensemble.server.rollout import Rollout, RolloutError, check_fits
from ensemble.server.selection import Selection
from ensemble.server.served_repository import ServedRepository
from ensemble.server.server_error import ServerError
from ensemble.settings import ServingSettings
from tests.conftest import Exported
from unipinrec.bundle import read_manifest


def nodes_of(bundle: Path, base: Path, number: int) -> NodeSet:
    manifest = read_manifest(bundle)
    held = manifest.models.keys()
    selection = Selection.of(MODEL_REPOSITORY, ServingSettings(), held, baseline=True)
    return NodeSet(number=number, bundle=bundle, manifest=manifest, selection=selection, base=base)


def test_nodes_come_in_the_order_of_the_graph(exported: Exported, tmp_path: Path) -> None:
    order = nodes_of(exported.bundle, tmp_path, FIRST).nodes
    assert set(order) == {"history", "retrieval", "retrieval_separate", "ann", "ranking", "scoring"}
    for first, then in (("history", "retrieval"), ("retrieval", "ann"), ("ann", "ranking")):
        assert order.index(first) < order.index(then)
    assert order[-1] == "scoring"


def test_nodes_of_two_bundles_stand_side_by_side(exported: Exported, tmp_path: Path) -> None:
    repository = ServedRepository(tmp_path / "models", MODEL_REPOSITORY, "gpu")
    first, second = (nodes_of(exported.bundle, tmp_path, number) for number in (FIRST, SECOND))
    repository.write_all(first)
    repository.write_nodes(second)
    repository.write_ensemble("recommend", "recommend-standby", second)
    for nodes, name in ((first, "ranking"), (second, "ranking-2")):
        config = read_config(tmp_path / "models" / name / "config.pbtxt")
        said = {key: value.string_value for key, value in config.parameters.items()}
        own = ServingSettings().with_parameters({key: {"string_value": text} for key, text in said.items()})
        assert (own.bundle, own.runtime_dir) == (exported.bundle, nodes.runtime_dir)
        assert config.name == name
        # The profile is written, so that Triton does not choose again.
        assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    assert first.runtime_dir != second.runtime_dir
    graph = Graph.of(read_config(tmp_path / "models" / "recommend-standby" / "config.pbtxt"))
    assert graph.nodes == {"history-2", "retrieval-2", "ann-2", "ranking-2", "scoring-2"}
    assert (tmp_path / "models" / "recommend" / "1").is_dir()


def test_a_written_node_is_as_old_after_python_has_read_it(exported: Exported, tmp_path: Path) -> None:
    """Triton would start it anew otherwise, with the next ensemble that is loaded."""
    repository = ServedRepository(tmp_path / "models", MODEL_REPOSITORY, None)
    repository.write_all(nodes_of(exported.bundle, tmp_path, FIRST))
    version = tmp_path / "models" / "ranking" / "1"
    assert list((version / "__pycache__").iterdir())
    before = (read_config(version.parent / "config.pbtxt"), version.stat().st_mtime_ns)
    repository.renew("ranking", {"ranking_0"})
    assert version.stat().st_mtime_ns == before[1]
    assert read_config(version.parent / "config.pbtxt") != before[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "is the one that serves"),
        (
            {"bundle_id": "b", "actions": ("save", "click", "hide")},
            "actions of bundle b are save, click, hide",
        ),
        ({"bundle_id": "b", "surfaces": ("home",)}, "surfaces of bundle b are home; allowed: home, search"),
    ],
)
def test_what_would_be_read_otherwise_is_refused(
    exported: Exported, change: dict[str, Any], message: str
) -> None:
    old = read_manifest(exported.bundle)
    with pytest.raises(RolloutError, match=message):
        check_fits(old, old.model_copy(update=change))


def test_other_weights_fit(exported: Exported) -> None:
    old = read_manifest(exported.bundle)
    check_fits(old, old.model_copy(update={"bundle_id": "b"}))


class Told(Rollout):
    """Notes what it is told, in place of a server."""

    def __init__(self) -> None:
        self.commands: list[tuple[Any, ...]] = []

    def status(self) -> dict[str, Any]:
        return {"told": len(self.commands)}

    def deploy(self, bundle: Path, tell: Callable[[str], None], *, free_old: bool = False) -> None:
        self.commands.append((bundle, free_old))
        tell("Loading")

    def rollback(self, tell: Callable[[str], None]) -> None:
        tell("Looking")
        raise ServerError("nothing there")

    def free(self, tell: Callable[[str], None]) -> None:
        tell("Looking")
        raise KeyError("unforeseen")


@pytest.fixture
def runtime_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "own-77-0123abcd"
    folder.mkdir()
    return folder


@pytest.fixture
def told(runtime_dir: Path) -> Iterator[Told]:
    rollout = Told()
    with listening(runtime_dir, Control(rollout, lambda _: None)):
        yield rollout


def test_commands_tell_of_each_step_and_of_the_end(told: Told, runtime_dir: Path) -> None:
    control, lines = find_control(runtime_dir.with_name("own")), list[str]()
    body = {"bundle": "/bundles/b", "free_old": True}
    assert command(control, "deploy", body, lines.append) == {"told": 1}
    assert (told.commands, lines) == ([(Path("/bundles/b"), True)], ["Loading"])
    assert command(control, "status", None, lines.append) == {"told": 1}
    assert control.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("rollback", {}, "^nothing there$"),
        ("free", {}, "^KeyError: 'unforeseen'$"),
        ("deploy", {}, "^bundle is missing"),
        ("deploy", {"bundle": "/b", "more": 1}, "^more"),
        (
            "stop",
            {},
            "^asked for POST /stop; allowed: POST /deploy, GET /status, POST /rollback, ",
        ),
    ],
)
def test_what_is_refused_says_why(
    told: Told, runtime_dir: Path, name: str, body: dict[str, Any], message: str
) -> None:
    with pytest.raises(ServerError, match=message):
        command(runtime_dir / SOCKET, name, body, print)
    assert told.commands == []


def test_a_command_goes_on_when_its_caller_leaves(told: Told, runtime_dir: Path) -> None:
    body = json.dumps({"bundle": "/b"})
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(runtime_dir / SOCKET))
        head = f"POST /deploy HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        caller.sendall((head + body).encode())
        assert caller.recv(1)
    assert command(runtime_dir / SOCKET, "status", None, print) == {"told": 1}
    assert told.commands == [(Path("/b"), False)]


def test_without_a_server_or_with_several_the_message_has_a_remedy(told: Told, runtime_dir: Path) -> None:
    base = runtime_dir.with_name("own")
    with pytest.raises(ServerError, match="start one: `unipinrec serve`"):
        find_control(runtime_dir.with_name("none"))
    killed = runtime_dir.with_name("own-78-0123abcd")
    killed.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(killed / SOCKET))
    assert find_control(base) == runtime_dir / SOCKET
    other = runtime_dir.with_name(f"own-{os.getpid()}-0123abcd")
    other.mkdir()
    with listening(other, Control(told, lambda _: None)):
        with pytest.raises(ServerError, match="several servers run; allowed: --runtime-dir with one of "):
            find_control(base)
        assert find_control(other) == other / SOCKET
