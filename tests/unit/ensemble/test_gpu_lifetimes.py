"""Memory of a device is given back as soon as nobody works on it, not when garbage is collected some day."""

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.arrays import Floats
from ensemble.executors.cuda.engine import GpuEngine
from ensemble.executors.engine import ScoringRow
from ensemble.kv.event_chain import EventChain
from ensemble.kv.pool import Handle, KVPool, MappedPool, PoolDirectory
from ensemble.kv.prefill import CachedSequence, Prefill
from ensemble.loaded_bundle import LoadedBundle
from tests.conftest import NOW
from tests.support.node_chain import WINDOW_BLOCK, made_up
from tests.support.stand_in_device import StandInAllocator, eager_engine
from tests.support.waiting import holds_within
from unipinrec.data.history import History

LENGTH = 40


@pytest.fixture(autouse=True)
def without_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def as_nodes_run() -> Iterator[None]:
    with torch.inference_mode():
        yield


class Owner:
    """A retrieval process, as far as its pool goes."""

    def __init__(self, engine: GpuEngine, folder: Path) -> None:
        self._engine = engine
        self.pool = KVPool(folder, "retrieval_0", engine.layout(1), 60_000, engine)

    def encode(self, history: History) -> Handle:
        slot = self.pool.acquire()
        assert slot is not None
        self._engine.encode(self.pool.storage, [Prefill(history, 0, slot)])
        return self.pool.publish(slot, EventChain(history, "bundle", WINDOW_BLOCK))

    def die(self) -> None:
        self.pool.close()


class Reader:
    """The ranking process, as far as its mappings go."""

    def __init__(self, engine: GpuEngine, allocator: StandInAllocator, folder: Path) -> None:
        self.engine, self.allocator = engine, allocator
        self.pools = PoolDirectory(folder, engine)

    def pool_of(self, handle: Handle) -> MappedPool:
        pool = self.pools.find(handle)
        assert pool is not None
        return pool

    def score(self, pool: MappedPool, handle: Handle) -> Floats:
        place = CachedSequence(handle.slot, handle.length)
        history = made_up(1, handle.length - 1)
        hidden_C = pool.storage.hidden(handle.slot).numpy()
        return self.engine.score([ScoringRow(pool.storage, place, np.arange(30), NOW, 0, history, hidden_C)])[
            0
        ]


@pytest.fixture
def make_owner(loaded: LoadedBundle, tmp_path: Path) -> Callable[[], Owner]:
    engine = eager_engine(loaded, batches=(1,))
    return lambda: Owner(engine, tmp_path)


@pytest.fixture
def reader(loaded: LoadedBundle, tmp_path: Path) -> Iterator[Reader]:
    allocator = StandInAllocator()
    reader = Reader(eager_engine(loaded, allocator, batches=(1,)), allocator, tmp_path)
    yield reader
    reader.pools.close()


def test_memory_of_a_dead_owner_is_given_back_while_nobody_asks(
    make_owner: Callable[[], Owner], reader: Reader
) -> None:
    owner = make_owner()
    handle = owner.encode(made_up(1, LENGTH))
    reader.pools.watch()
    reader.score(reader.pool_of(handle), handle)
    time.sleep(0.4)
    assert reader.allocator.mapped == 1
    owner.die()
    assert holds_within(20, lambda: reader.allocator.mapped == 0)


def test_a_run_in_flight_keeps_the_memory_until_its_end(
    make_owner: Callable[[], Owner], reader: Reader
) -> None:
    owner = make_owner()
    handle = owner.encode(made_up(1, LENGTH))
    in_flight = reader.pool_of(handle)
    expected = reader.score(in_flight, handle)
    owner.die()
    reader.pools.forget_gone()
    assert reader.allocator.mapped == 1
    assert np.array_equal(reader.score(in_flight, handle), expected)
    del in_flight
    assert reader.allocator.mapped == 0


def test_what_an_engine_made_of_a_storage_ends_with_it_by_reference_counting_alone(
    loaded: LoadedBundle, tmp_path: Path
) -> None:
    allocator = StandInAllocator()
    engine = eager_engine(loaded, allocator, batches=(1,))

    def use_and_close(name: str) -> None:
        storage = engine.create(tmp_path / name, engine.layout(1))
        engine.prepare(storage, ("encode", "generate", "score"))
        assert allocator.mapped == 1
        engine.close(storage)

    # PyTorch traces attention for the first, which leaves cycles that are none of ours.
    use_and_close("traced")
    gc.collect()
    use_and_close("counted")
    assert allocator.mapped == 0
