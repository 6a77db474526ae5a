"""What the launcher refuses before any server starts, each in one line with the value and a remedy."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from commands.serve import serve
from ensemble.server.backoff import Backoff
from ensemble.server.endpoints import Endpoints
from ensemble.server.installation import Installation, check_host, find_libpython, make_backends
from ensemble.server.launcher import check_bundle, example_user
from ensemble.server.runtime_folder import claim_folder, remove_abandoned
from ensemble.server.server_error import ServerError
from ensemble.server.watchdog import owner_of, useless_instances
from ensemble.settings import ROOT, SECRETS, ServingSettings
from ensemble.stores.history_store import EVENT
from ensemble.stores.lmdb_store import LmdbHistoryStore

SUPPORTED = {"glibc": "glibc 2.36", "python": "3.11", "numpy": "1.26.4"}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_supported_host_passes() -> None:
    check_host(**SUPPORTED)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ({"glibc": "glibc 2.31"}, "C library is glibc 2.31; allowed: glibc 2.35"),
        ({"glibc": "unknown"}, "C library is unknown; allowed: glibc 2.35"),
        ({"python": "3.13"}, "Python is 3.13; allowed: 3.11 or 3.12"),
        ({"numpy": "2.1.0"}, "numpy is 2.1.0; allowed: below 2"),
    ],
)
def test_unsupported_host_is_named(version: dict[str, str], message: str) -> None:
    with pytest.raises(ServerError, match=message):
        check_host(**SUPPORTED | version)


def test_missing_wheel_names_the_command_that_installs_it() -> None:
    with pytest.raises(ServerError, match="no-such-wheel is not installed; run: pip install --no-deps"):
        Installation.find(None, "no-such-wheel")


def test_wheel_without_the_binary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty_wheel-1.0.dist-info").mkdir()
    (tmp_path / "empty_wheel-1.0.dist-info" / "METADATA").write_text("Name: empty-wheel\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ServerError, match=r"tritonserver is missing at .*/bin/tritonserver; run: pip install"
    ):
        Installation.find(None, "empty-wheel")


def test_launchers_at_once_share_one_whole_backend_folder(tmp_path: Path) -> None:
    server, folder = tmp_path / "server", tmp_path / "build"
    for path in (
        "backends/python/libtriton_python.so",
        "python_backend_stubs/3.11/triton_python_backend_stub",
    ):
        (server / path).parent.mkdir(parents=True)
        (server / path).touch()
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda _: make_backends(server, folder, "3.11"), range(16)))
    assert len(set(made)) == 1
    assert {path.name for path in (made[0] / "python").iterdir()} == {
        "libtriton_python.so",
        "triton_python_backend_stub",
    }
    assert [path.name for path in made[0].parent.iterdir()] == ["backends"]
    assert os.access(made[0] / "python" / "triton_python_backend_stub", os.X_OK)


def test_missing_libpython_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"libpython3\.11\.so\.1\.0 is missing; install it \(apt-get"):
        find_libpython([tmp_path], "3.11")


def test_libpython_is_found_in_the_first_folder_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "libpython3.12.so.1.0").touch()
    assert find_libpython([tmp_path / "none", tmp_path], "3.12").parent == tmp_path


def test_free_endpoints_can_all_be_opened_at_once() -> None:
    servers = Endpoints.free_for(3)
    ports = [port for endpoints in servers for port in endpoints.ports.values()]
    assert len(set(ports)) == 12
    with ExitStack() as held:
        for port in ports:
            held.enter_context(socket.create_server((servers[0].address, port)))


def test_a_server_for_every_address_is_reached_on_loopback() -> None:
    anywhere = Endpoints(address="0.0.0.0", http_port=80, grpc_port=81, metrics_port=82)  # noqa: S104
    assert anywhere.grpc_url == "127.0.0.1:81"
    assert anywhere.http_url == "http://127.0.0.1:80"
    assert Endpoints(address="10.1.2.3").metrics_url == "http://10.1.2.3:8002/metrics"


def test_taken_port_is_named_with_its_option(taken_port: int) -> None:
    with pytest.raises(ServerError, match=f"--grpc-port is {taken_port}, which another process listens on"):
        replace(Endpoints.free(), grpc_port=taken_port).check()


def test_one_port_for_two_endpoints_is_refused() -> None:
    port = Endpoints.free().http_port
    with pytest.raises(
        ServerError, match=f"--grpc-port is {port}; allowed: a port other than that of --http-port"
    ):
        Endpoints(http_port=port, grpc_port=port).check()


@pytest.mark.parametrize("address", ["localhost", "::1", "127.0.0.256", "192.0.2.1"])
def test_address_that_cannot_be_bound_is_named(address: str) -> None:
    with pytest.raises(ServerError, match=f"--address is {address}; allowed: "):
        Endpoints(address=address).check()


def test_missing_bundle_names_the_path_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=rf"--bundle is {tmp_path}, .*`make demo` or `unipinrec export`"):
        check_bundle(tmp_path)


def test_command_fails_with_one_line(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(serve)
    result = CliRunner().invoke(app, ["--bundle", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.startswith(f"--bundle is {tmp_path}, which has no manifest.json")
    assert result.output.count("\n") == 1


def test_command_names_the_variable_that_is_wrong() -> None:
    app = typer.Typer()
    app.command()(serve)
    result = CliRunner().invoke(app, [], env={"UNIPINREC_THREADS": "0"})
    assert result.exit_code == 1
    assert result.output == "UNIPINREC_THREADS is 0; allowed: greater than or equal to 1\n"


def test_settings_travel_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = ServingSettings(
        bundle=Path("/a bundle"), histories=Path("/h"), pool_slots=3, exclude_seen=False, lease_ms=7
    )
    for name, value in sent.as_environment().items():
        monkeypatch.setenv(name, value)
    assert ServingSettings() == sent


def test_the_secret_travels_apart_from_what_may_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    url = SecretStr("rediss://ann:s3cret@host:6380/1")
    sent = ServingSettings(admin_key=SecretStr("s3cret"), seal_key=SecretStr("5e" * 32), histories_url=url)
    shown = repr(sent) + str(sent.as_environment())
    assert "s3cret" not in shown
    assert "5e5e" not in shown
    for name, value in (sent.as_environment() | sent.secret_environment()).items():
        monkeypatch.setenv(name, value)
    assert ServingSettings() == sent
    # One that a child must not have is not inherited either.
    nothing = dict.fromkeys(SECRETS)
    assert set(ServingSettings(**nothing).secret_environment().values()) == {""}


def test_a_gpus_programs_are_kept_where_the_settings_say(tmp_path: Path) -> None:
    kept = ServingSettings(compile_cache=tmp_path).compiler_environment()
    assert kept == {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
    }
    assert ServingSettings().compile_cache == ROOT / "build" / "compile-cache"


def test_relative_bundle_starts_at_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIPINREC_BUNDLE", "build/other")
    assert ServingSettings().bundle == ROOT / "build" / "other"
    assert ServingSettings().histories == ROOT / "build" / "stores" / "histories"


def test_settings_refuse_an_empty_pool() -> None:
    with pytest.raises(ValidationError, match="pool_slots"):
        ServingSettings(pool_slots=0)


def test_the_example_user_is_a_stored_one_where_there_is_one(tmp_path: Path) -> None:
    histories = tmp_path / "histories"
    settings, told = ServingSettings(histories=histories), list[str]()
    assert example_user(settings, told.append) == "42"
    with LmdbHistoryStore(histories, writable=True):
        pass
    assert example_user(settings, told.append) == "42"
    with LmdbHistoryStore(histories, writable=True) as store:
        for user_id in (b"bob", b"alice"):
            store.append(user_id, np.ones(1, EVENT))
    assert example_user(settings, told.append) == "alice"
    assert told == []


def test_what_is_no_store_is_refused_in_one_line_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    app = typer.Typer()
    app.command()(serve)
    result = CliRunner().invoke(app, ["--bundle", str(tmp_path), "--histories", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == (f"{tmp_path} is no history store; `unipinrec store` makes one in a new folder\n")


def test_dead_node_is_found_by_the_longest_name() -> None:
    failure = "in ensemble 'recommend', Stub process 'ranking_separate_0_1' is not healthy."
    (instance,) = useless_instances([failure, "Exceeds maximum queue size"])
    assert owner_of(instance, ["ranking", "ranking_separate", "recommend"]) == "ranking_separate"
    assert owner_of(instance, ["retrieval"]) is None


def test_runtime_folder_is_private_and_kept_while_held(tmp_path: Path) -> None:
    base = tmp_path / "pools"
    folder, lock = claim_folder(base)
    assert folder.stat().st_mode & 0o777 == 0o700
    remove_abandoned(base)
    assert folder.is_dir()
    os.close(lock)
    remove_abandoned(base)
    assert list(tmp_path.iterdir()) == []


def test_restarts_come_later_and_later_until_one_has_served_for_a_while() -> None:
    backoff = Backoff(first_s=1, longest_s=30, calm_s=10)
    assert [backoff.pause_s(now) for now in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    backoff.serves(100)
    assert backoff.pause_s(109) == 30
    backoff.serves(200)
    assert backoff.pause_s(210) == 0
    assert backoff.pause_s(211) == 1
