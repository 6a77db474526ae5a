"""A bundle in which anything is wrong is not rolled out, and the one that serves goes on undisturbed."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensemble.server.control_client import command, find_control
from ensemble.server.server_error import ServerError
from tests.conftest import Exported
from tests.served.caller import asking
from tests.served.test_rollout import Deployment
from tests.support.corrupt_bundles import Case, cases, make_bases

CASES = list(cases())
SOME = CASES[5::40]


@pytest.fixture(scope="module")
def bases(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_bases(exported, tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def deployment(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(exported, tmp_path_factory.mktemp("deployment"))
    try:
        deployment.launcher.wait_for("Serving after")
        yield deployment
    finally:
        deployment.launcher.stop(signal.SIGTERM)


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_it_is_refused_and_the_other_serves_on(
    deployment: Deployment, exported: Exported, bases: dict[str, Path], tmp_path: Path, case: Case
) -> None:
    refused_alone(deployment, exported, case, case.make(bases, tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("case", [case for case in CASES if case not in SOME], ids=lambda case: case.name)
def test_each_is_refused_and_the_other_serves_on(
    deployment: Deployment, exported: Exported, bases: dict[str, Path], tmp_path: Path, case: Case
) -> None:
    refused_alone(deployment, exported, case, case.make(bases, tmp_path))


def refused_alone(deployment: Deployment, exported: Exported, case: Case, bundle: Path) -> None:
    """The deploy fails with a line that names the file, and no request does meanwhile."""
    said: list[str] = []
    # A machine with more to do than cores may take its time, and no answer may be missing.
    with asking(deployment.endpoints.grpc_url, deployment.requests, threads=1, timeout_s=60.0) as seen:
        with pytest.raises(ServerError) as refused:
            command(find_control(deployment.runtime_dir), "deploy", {"bundle": str(bundle)}, said.append)
        state = command(find_control(deployment.runtime_dir), "status", None, said.append)
    assert case.file in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not any(line.startswith("Loading") for line in said)
    assert (state["serving"]["bundle"], state["standby"]) == (exported.bundle.name, None)
    assert seen.failures == []
    assert {answer.bundle_id for *_, answer in seen.answers} == {exported.bundle.name}
