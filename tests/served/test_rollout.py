"""A bundle is rolled out and back while callers ask: none of them fails, and no answer mixes bundles."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from unipinrec_client import GrpcClient, RecommendError, RecommendResponse

from ensemble.graph import MODEL_REPOSITORY
from ensemble.nodes.node import GIVES_WAY
from ensemble.server.endpoints import Endpoints
from ensemble.settings import ROOT, SHARED_MEMORY
from export.bundle_writer import write_bundle
from tests.conftest import SERVED, Exported, random_checkpoint
from tests.served.caller import ONCE, asking
from tests.served.exchange import exchange
from tests.served.launched import Launcher
from tests.served.requests import stored
from tests.support.answers import PROMISED, assert_alike
from tests.support.waiting import holds_within
from unipinrec.bundle import CATALOGUE, MANIFEST, content_id, describe_file, read_manifest

USERS = 8
START_S, RECOVERY_S = 180.0, 120.0
"""On a machine that runs other tests beside it."""


@pytest.fixture(scope="module")
def other(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of other weights."""
    folder = tmp_path_factory.mktemp("other")
    model = read_manifest(exported.bundle).model
    checkpoint = random_checkpoint(model, folder / "checkpoints", exported.dataset, seed=12)
    return write_bundle(checkpoint, exported.dataset, folder / "bundles", **SERVED)


class Deployment:
    """`unipinrec serve` of a bundle behind a link, and the commands that a user gives it."""

    def __init__(self, exported: Exported, folder: Path) -> None:
        self.link = folder / "bundle"
        self.link.symlink_to(exported.bundle)
        (folder / "histories").symlink_to(exported.histories)
        (folder / "models").symlink_to(MODEL_REPOSITORY)
        self.endpoints = Endpoints.free()
        self.requests = [stored(exported, user) for user in range(USERS)]
        self.launcher = Launcher(folder, self.endpoints)

    @property
    def runtime_dir(self) -> Path:
        """Beside which lie regions of shared memory with its name."""
        (folder,) = (
            path
            for path in map(SHARED_MEMORY.joinpath, self.launcher.left_in_shared_memory())
            if path.is_dir()
        )
        return folder

    def give(self, *command: str, code: int = 0) -> str:
        """Give a command, and return what it says."""
        ended = subprocess.run(
            [sys.executable, "-m", "commands.entry", *command, "--runtime-dir", str(self.runtime_dir)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, ended.stderr + self.launcher.output
        return ended.stdout if code == 0 else ended.stderr

    def has(self, bundle: Path) -> None:
        """Let it serve a bundle, if it does not already."""
        if self.link.resolve() != bundle:
            self.give("deploy", str(bundle))

    def answers(self) -> list[RecommendResponse]:
        """What it answers to its requests."""
        with GrpcClient(self.endpoints.grpc_url, retry=ONCE) as client:
            return [client.recommend(request) for request in self.requests]

    def kill_one(self, node: str) -> None:
        """Kill a process of a node."""
        victim = next(p for p in self.launcher.processes() if f"/{node}/1/model.py" in " ".join(p.cmdline()))
        victim.kill()


@pytest.fixture(scope="module")
def deployment(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(exported, tmp_path_factory.mktemp("deployment"))
    try:
        holds_within(START_S, lambda: "Serving after" in deployment.launcher.output)
        deployment.launcher.wait_for("Serving after")
        yield deployment
    finally:
        deployment.launcher.stop(signal.SIGTERM)
    assert deployment.launcher.left_in_shared_memory() == []


def test_callers_notice_nothing_but_the_other_bundle(
    deployment: Deployment, exported: Exported, other: Path
) -> None:
    with asking(deployment.endpoints.grpc_url, deployment.requests) as seen:
        before = deployment.answers()
        said = deployment.give("deploy", str(other))
        after = deployment.answers()
        deployment.give("rollback")
        again = deployment.answers()
        deployment.give("rollback")
    assert seen.failures == []
    assert f"Serving {other.name}; {exported.bundle.name} stands by" in said
    right = {exported.bundle.name: before, other.name: after}
    assert {answer.bundle_id for answer in after} == {other.name}
    assert_alike(again, before, PROMISED)
    # Whatever bundle an answer names, it is that bundle's own.
    found = [answer for *_, answer in seen.answers]
    assert {answer.bundle_id for answer in found} == right.keys()
    items = {
        (bundle_id, tuple(item.item_id for item in answer.recommendations))
        for bundle_id, answers in right.items()
        for answer in answers
    }
    strange = [a for a in found if (a.bundle_id, tuple(i.item_id for i in a.recommendations)) not in items]
    assert len(strange) <= 0.01 * len(found)
    assert deployment.link.resolve() == other


def test_nodes_give_way_from_their_first_moment_on(
    deployment: Deployment, exported: Exported, other: Path
) -> None:
    deployment.has(exported.bundle)
    known = set(deployment.launcher.processes())
    seen: dict[int, list[int]] = {}
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(deployment.give, "deploy", str(other))
        while not deploying.done():
            for process in set(deployment.launcher.processes()) - known:
                with suppress(psutil.NoSuchProcess):
                    # Imports alone take longer.
                    used_s = sum(process.cpu_times()[:2])
                    if used_s > 0.7 and "/ranking" in " ".join(process.cmdline()):
                        seen.setdefault(process.pid, []).append(process.nice())
    assert len(seen) == 2
    assert [min(nices) for nices in seen.values()] == [GIVES_WAY, GIVES_WAY]


def test_a_node_that_dies_after_a_switch_comes_back_with_its_bundle(
    deployment: Deployment, exported: Exported, other: Path
) -> None:
    deployment.has(other)
    before = deployment.answers()
    assert before[0].bundle_id == other.name
    # That of the bundle before is loaded too.
    for node in ("ranking-2", "ranking"):
        deployment.kill_one(node)
        told = re.compile(f"watchdog: {node}_._. died; loaded again")
        assert holds_within(RECOVERY_S, lambda told=told: told.search(deployment.launcher.output)), (
            deployment.launcher.output
        )
    assert_alike(deployment.answers(), before, PROMISED)
    deployment.give("rollback")
    assert deployment.answers()[0].bundle_id == exported.bundle.name
    deployment.give("rollback")


def test_metrics_name_a_node_the_same_whichever_bundle_it_serves(deployment: Deployment, other: Path) -> None:
    def ranked() -> list[float]:
        text = exchange("GET", deployment.endpoints.metrics_url)[1].decode()
        assert 'node="ranking-2"' not in text
        return [float(n) for n in re.findall(r'unipinrec_batch_rows_count\{node="ranking"\} (\S+)', text)]

    deployment.has(other)
    (before,) = ranked()
    deployment.answers()
    assert holds_within(5, lambda: ranked()[0] > before)


def test_an_altered_bundle_is_refused_while_the_other_serves(
    deployment: Deployment, exported: Exported, other: Path, tmp_path: Path
) -> None:
    deployment.has(other)
    altered = shutil.copytree(exported.bundle, tmp_path / "altered")
    with (altered / "items.faiss").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    with asking(deployment.endpoints.grpc_url, deployment.requests, threads=1) as seen:
        said = deployment.give("deploy", str(altered), code=2)
    assert "items.faiss" in said
    assert said.count("\n") == 1
    assert seen.failures == []
    assert {answer.bundle_id for *_, answer in seen.answers} == {other.name}
    assert f"serving  {other.name}" in deployment.give("status")


def with_turned_actions(bundle: Path, folder: Path) -> Path:
    """A sound bundle whose first two actions have changed places."""
    shutil.copytree(bundle, folder)
    actions = ("save", "click", "hide")
    catalogue = json.loads((folder / CATALOGUE).read_text())
    (folder / CATALOGUE).write_text(json.dumps(catalogue | {"actions": actions}))
    manifest = read_manifest(bundle)
    files = manifest.files | {CATALOGUE: describe_file(folder / CATALOGUE)}
    manifest = manifest.model_copy(update={"actions": actions, "files": files})
    manifest = manifest.model_copy(update={"bundle_id": content_id(manifest)})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def test_a_bundle_of_other_actions_is_refused(deployment: Deployment, other: Path, tmp_path: Path) -> None:
    deployment.has(other)
    said = deployment.give("deploy", str(with_turned_actions(other, tmp_path / "turned")), code=2)
    assert "are save, click, hide; allowed: click, save, hide" in said
    assert "is the one that serves" in deployment.give("deploy", str(other), code=2)


def test_a_server_killed_after_a_switch_comes_back_with_that_bundle(
    deployment: Deployment, other: Path
) -> None:
    deployment.has(other)
    deployment.launcher.kill_server()
    holds_within(START_S, lambda: deployment.launcher.output.count("Serving after") == 2)
    deployment.launcher.wait_for("Serving after", 2)
    with suppress(RecommendError):  # A connection that the killed server had.
        deployment.answers()
    assert deployment.answers()[0].bundle_id == other.name
    assert "no other bundle is loaded" in deployment.give("rollback", code=2)


def test_the_socket_is_for_its_user_alone(deployment: Deployment) -> None:
    assert (deployment.runtime_dir / "control").stat().st_mode & 0o777 == 0o600
