"""Processes read a store, and others write to it, without a wait or a loss."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.settings import ROOT
from ensemble.stores.history_store import (
    StoreError,
)
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.support.store_processes import HOLDER, READER, append_elsewhere, process
from tests.support.stored_events import events, many, rows, written


def test_the_map_grows_as_often_as_it_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.stores.lmdb_store.GROWTH_BYTES", 1 << 20)
    with LmdbHistoryStore(path, writable=True) as store:
        for user in range(12):
            store.append(b"%d" % user, events(many(30_000)))
        calls: list[int] = []

        def histories() -> Iterator[tuple[bytes, NDArray[np.void]]]:
            calls.append(1)
            for user in range(40):
                yield b"%d" % user, events(many(30_000))

        assert store.replace_all(histories) == (40, 1_200_000)
        assert len(calls) > 1
    with LmdbHistoryStore(path) as store:
        assert len(store.first_users(99)) == 40
        assert rows(store.read(b"39")) == many(30_000)


def test_readers_in_other_processes_follow_a_writer_and_the_growth_of_the_map(path: Path) -> None:
    """The writer outgrows the map that the readers opened, which then have to take the larger one."""
    steps, block = 30, 1_000
    until = str(steps * block)
    with (
        LmdbHistoryStore(path, writable=True) as store,
        process(READER, path, until) as one,
        process(READER, path, until) as other,
    ):
        for step in range(steps):
            block_of_both = events(many(block, first=step * block))
            store.append_all([(b"ann", block_of_both), (b"bob", block_of_both)])
        for reader in (one, other):
            out, errors = reader.communicate(timeout=60)
            assert (reader.returncode, out) == (0, f"{until}\n"), errors


def test_what_a_reader_still_reads_is_not_overwritten(path: Path) -> None:
    with LmdbHistoryStore(path, writable=True) as store:
        store.append_all([(b"%d" % user, events(many(500))) for user in range(20)])
        with process(HOLDER, path) as holder:
            for first in range(30):
                store.replace_all(
                    lambda first=first: ((b"%d" % user, events(many(500, first))) for user in range(20))
                )
            out, errors = holder.communicate("\n", timeout=60)
            assert (holder.returncode, out) == (0, "True\n"), errors


def test_a_killed_reader_keeps_nothing_from_being_overwritten(path: Path) -> None:
    """Somebody else has the store open, so that its lock file does not begin anew."""
    written(path, b"ann", 1)
    with process(HOLDER, path) as killed, process(HOLDER, path) as other:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        with LmdbHistoryStore(path, writable=True) as store:
            readers = store._environment.readers().split()
    assert str(other.pid) in readers
    assert str(killed.pid) not in readers


def test_readers_of_two_pid_namespaces_with_one_id_are_told_so(path: Path) -> None:
    """As in two containers, each of which numbers its processes from 1."""
    own_namespace = ("unshare", "--pid", "--fork", "--kill-child")
    if not shutil.which("unshare") or subprocess.run([*own_namespace, "true"], check=False).returncode:
        pytest.skip("needs `unshare --pid`, as root")
    with process(HOLDER, written(path, b"ann", 1), under=own_namespace):
        second = subprocess.run(
            [*own_namespace, sys.executable, "-c", HOLDER, str(path)],
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=False,
        )
    assert second.returncode == 1
    assert f"StoreError: history store {path}: " in second.stderr
    assert second.stderr.endswith("give them one PID namespace\n")


def test_a_reader_sees_what_is_appended_while_it_is_open(path: Path) -> None:
    with LmdbHistoryStore(written(path, b"ann", 3)) as store:
        assert len(store.read(b"ann")) == 3
        assert append_elsewhere(path) == -signal.SIGKILL
        assert rows(store.read(b"ann")) == [*many(3), (5, 1, 77, 0)]


def test_a_reader_cannot_append(path: Path) -> None:
    with (
        LmdbHistoryStore(written(path, b"ann", 1)) as store,
        pytest.raises(StoreError, match=rf"^history store {path}: .*read-only"),
    ):
        store.append(b"ann", events(many(1)))


def test_a_write_is_on_disk_when_it_returns(path: Path) -> None:
    """The writer is killed before it closes anything."""
    assert append_elsewhere(path) == -signal.SIGKILL
    with LmdbHistoryStore(path, writable=True) as store:
        assert store._environment.flags()["sync"]
        store.append(b"ann", events([(6, 1, 78, 0)]))
        assert rows(store.read(b"ann")) == [(5, 1, 77, 0), (6, 1, 78, 0)]
