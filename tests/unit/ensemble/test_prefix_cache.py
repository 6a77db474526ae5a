"""Reusing prefixes equals recomputation, whatever happened to the slots: in float64, to 1e-9."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ensemble.executors.cuda.calls import Launches
from ensemble.executors.cuda.encoder import SlotEncoder
from ensemble.executors.cuda.engine import StoragePrefiller
from ensemble.executors.cuda.item_table import ItemTable
from ensemble.executors.cuda.parts import Parts
from ensemble.executors.torchscript.encoder import HistoryEncoder
from ensemble.kv.cuda.device_storage import DeviceStorage
from ensemble.kv.event_chain import EventChain
from ensemble.kv.pool import DEADLINE_NS, Handle, KVPool, MappedPool, Match, PoolDirectory
from ensemble.kv.prefill import Prefill
from ensemble.kv.prefix_cache import Encoded, PrefixCache
from ensemble.kv.shared_memory import SharedMemory, SharedMemoryStorage
from ensemble.kv.slot_storage import SlotLayout, SlotStorage
from tests.support.pool_content import content_of, slot_content
from tests.support.stand_in_device import StandInPools
from unipinrec.data.history import History
from unipinrec.data.window import window_start
from unipinrec.models.common.tokens import Events
from unipinrec.models.unified.config import preset
from unipinrec.models.unified.graphs import EncoderGraph
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.served import ServedModel

TOLERANCE = 1e-9
BLOCK, MAX_HISTORY = 8, 24
USERS, EVENTS = 4, 48
MINUTE_MS = 60_000


def drawn(draw: np.random.Generator, length: int) -> History:
    return History(
        item_row_N=draw.integers(30, size=length),
        actions_N=draw.integers(1, 4, size=length),
        timestamp_N=1_700_000_000 + draw.integers(1, 9_000, size=length).cumsum(),
        surface_N=np.zeros(length, np.int64),
    )


def altered(history: History, event: int) -> History:
    """The same events but for the action of one."""
    actions_N = history.actions_N.copy()
    actions_N[event] = 4 - actions_N[event]
    return History(
        item_row_N=history.item_row_N,
        actions_N=actions_N,
        timestamp_N=history.timestamp_N,
        surface_N=history.surface_N,
    )


class Truth:
    """What whole forwards compute for every user's every window, made once and looked up."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        sizes = {"layers": 2, "width": 8, "heads": 2, "item_dim": 4, "id_dim": 4, "action_dim": 2}
        config = preset("tiny", num_items=30, num_actions=2, **sizes, **WINDOW)
        self.model = UnifiedRecommender(config).double().eval()
        for parameter in self.model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        # A GPU keeps item vectors in float32.
        self.vector_VE = self.model.embedder.all_vectors().float().double().numpy()
        self.graph = torch.jit.freeze(torch.jit.script(EncoderGraph(self.model).eval()))
        draw = np.random.default_rng(4)
        self.streams = [drawn(draw, EVENTS) for _ in range(USERS)]
        # A stream whose middle differs: its windows share a prefix with the first user's.
        self.streams.append(altered(self.streams[0], 20))
        self._known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def window(self, stream: int, end: int) -> tuple[int, History]:
        start = window_start(end, MAX_HISTORY, BLOCK)
        return start, self.streams[stream][start:end]

    @torch.inference_mode()
    def encoded(self, stream: int, start: int) -> tuple[Tensor, Tensor]:
        """Hidden states [T, C] and keys and values [L, 2, H, T, D] of the longest window from `start` on."""
        if (stream, start) not in self._known:
            longest = self.streams[stream][start : start + MAX_HISTORY]
            columns = (longest.actions_N, longest.timestamp_N, longest.surface_N)
            actions, *rest = (torch.from_numpy(column)[None] for column in columns)
            vectors = torch.from_numpy(self.vector_VE[longest.item_row_N])[None]
            hidden_1TC, past_L21HTD = self.model.encode(Events(vectors, actions, *rest, actions < 0))
            self._known[stream, start] = (hidden_1TC[0], past_L21HTD[:, :, 0])
        return self._known[stream, start]


WINDOW = {"max_history": MAX_HISTORY, "window_block": BLOCK}


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth()


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a memory-backed file system, where pools are."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


class OnCpu:
    """What instances compute with on a CPU."""

    hidden_tolerance = TOLERANCE

    def __init__(self, truth: Truth) -> None:
        self.memory = SharedMemory()
        self.encode = HistoryEncoder(truth.graph, truth.vector_VE.__getitem__)


class OnGpu:
    """What they compute with on a GPU, here without compilation and capture."""

    hidden_tolerance = 1e-6
    """Hidden states are kept in float32."""

    def __init__(self, truth: Truth) -> None:
        model = ServedModel(truth.model.config).double().eval()
        kept = truth.model.state_dict()
        model.load_state_dict({name: kept[name] for name in model.state_dict()})
        device = torch.device("cpu")
        parts = Parts(
            device=device,
            model=model.requires_grad_(False),
            items=ItemTable(truth.vector_VE.astype(np.float32), "float32", device),
            launches=Launches.on(device, capture=False),
            compiled=lambda function: function,
            batches=(1, 4),
        )
        self.memory = StandInPools(spare=4)
        self.encode = StoragePrefiller(cache(partial(SlotEncoder, parts)))


Side = type[OnCpu | OnGpu]
SIDES = pytest.mark.parametrize("side", [OnCpu, OnGpu])


class Instances:
    """Two retrieval instances over one folder, and who reads their slots."""

    def __init__(self, truth: Truth, folder: Path, side: Side, slots: int) -> None:
        self.truth, self.folder = truth, folder
        config = truth.model.config
        shape = (config.layers, 2, config.heads, config.max_positions, config.head_dim)
        self._layout = SlotLayout(slots=slots, shape=shape, width=config.width, precision="float64")
        self.side = side(truth)
        self.reader = PoolDirectory(folder, self.side.memory)
        self.pools: dict[int, KVPool] = {}
        self.caches: dict[int, PrefixCache] = {}
        for instance in range(2):
            self.restart(instance)

    def restart(self, instance: int) -> None:
        memory = self.side.memory
        self.pools[instance] = KVPool(self.folder, f"retrieval_{instance}", self._layout, MINUTE_MS, memory)
        others = PoolDirectory(self.folder, memory)
        self.caches[instance] = PrefixCache(self.side.encode, self.pools[instance], others, self.chain)

    def chain(self, history: History, owner: bytes) -> EventChain:
        return EventChain(history, "bundle", BLOCK, owner)

    @torch.inference_mode()
    def ask(self, instance: int, wanted: list[tuple[int, int]]) -> list[Encoded]:
        """Encode streams up to an event, and compare everything with the truth."""
        windows = [self.truth.window(stream, end) for stream, end in wanted]
        encoded = self.caches[instance].encode([history for _, history in windows])
        for (stream, _), (start, history), found in zip(wanted, windows, encoded, strict=True):
            hidden_TC, past_L2HTD = self.truth.encoded(stream, start)
            length = len(history) + 1
            storage = self.pools[instance].storage
            assert found.place.length == length
            hidden_C, right = hidden_TC[length - 1], past_L2HTD[:, :, :, :length]
            assert (storage.hidden(found.place.slot) - hidden_C).abs().max() < self.side.hidden_tolerance
            assert (slot_content(storage, found.place.slot, length) - right).abs().max() < TOLERANCE
            pool = self.pool_of(found.handle)
            if pool is not None:
                assert pool.holds(found.handle)
                assert (content_of(pool, found.handle) - right).abs().max() < TOLERANCE
        return encoded

    def pool_of(self, handle: Handle) -> MappedPool | None:
        return self.reader.find(handle)

    def close(self) -> None:
        for pool in self.pools.values():
            pool.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("side", "sequences"),
    [(OnCpu, 1_000), (OnGpu, 200), pytest.param(OnCpu, 10_000, marks=pytest.mark.slow)],
)
def test_random_sequences_equal_recomputation(truth: Truth, folder: Path, side: Side, sequences: int) -> None:
    """Users append, go back, change an event and meet either instance; slots are evicted, leases end or do
    not, instances restart."""
    draw = np.random.default_rng(9)
    reused = evicted = full = 0
    instances = Instances(truth, folder, side, slots=3)
    for _ in range(sequences):
        ends = draw.integers(0, MAX_HISTORY, size=USERS + 1)
        for _ in range(int(draw.integers(1, 3))):
            action = draw.random()
            if action < 0.02:
                instances.restart(int(draw.integers(2)))
            if action < 0.1:
                for pool in instances.pools.values():
                    pool.header_SX[:, DEADLINE_NS] = 0
            users = draw.integers(USERS + 1, size=1 + int(draw.random() < 0.3) + int(draw.random() < 0.1))
            ends[users] = np.clip(ends[users] + draw.integers(-2, 9, size=len(users)), 0, EVENTS)
            wanted = [(int(user), int(ends[user])) for user in users]
            for found in instances.ask(int(draw.integers(2)), wanted):
                reused += found.handle.reused > 0
                full += found.handle.epoch == 0
                pool = instances.pool_of(found.handle)
                if pool is not None and draw.random() < 0.9:
                    pool.release(found.handle)
        evicted = max(evicted, *(pool.evictions for pool in instances.pools.values()))
    instances.close()
    # Each of the cases that the sequences are meant to meet was met often.
    assert reused > sequences / 4
    assert evicted > 10
    assert full > 10


@SIDES
def test_an_append_computes_its_new_events_alone(truth: Truth, folder: Path, side: Side) -> None:
    instances = Instances(truth, folder, side, slots=2)
    (first,) = instances.ask(0, [(0, 18)])
    (second,) = instances.ask(0, [(0, 21)])
    (third,) = instances.ask(0, [(0, 21)])
    assert [found.computed for found in (first, second, third)] == [19, 3, 0]
    assert [found.handle.reused for found in (first, second, third)] == [0, 19, 22]
    assert second.handle.slot == first.handle.slot


@pytest.mark.parametrize(("side", "padding"), [(OnCpu, 1 + 1), (OnGpu, 6 + 13)])
def test_padding_is_counted(truth: Truth, folder: Path, side: Side, padding: int) -> None:
    """19 positions and then 3: rounded up to multiples of 4, or to the next of the sizes 16 and 25."""
    instances = Instances(truth, folder, side, slots=2)
    instances.ask(0, [(0, 18)])
    instances.ask(0, [(0, 21)])
    assert instances.side.encode.padding == padding


@SIDES
def test_another_instance_takes_the_prefix_over(truth: Truth, folder: Path, side: Side) -> None:
    instances = Instances(truth, folder, side, slots=2)
    instances.ask(0, [(0, 20)])
    (taken,) = instances.ask(1, [(0, 22)])
    assert (taken.handle.epoch, taken.computed) == (instances.pools[1].epoch, 2)


@SIDES
def test_a_window_that_moved_is_encoded_again_once(truth: Truth, folder: Path, side: Side) -> None:
    instances = Instances(truth, folder, side, slots=2)
    instances.ask(0, [(0, MAX_HISTORY)])
    (moved,) = instances.ask(0, [(0, MAX_HISTORY + 1)])
    assert moved.handle.reused == 0
    assert moved.computed == MAX_HISTORY - BLOCK + 2
    (after,) = instances.ask(0, [(0, MAX_HISTORY + 3)])
    assert after.computed == 2


@SIDES
def test_equal_histories_of_a_batch_share_one_slot(truth: Truth, folder: Path, side: Side) -> None:
    instances = Instances(truth, folder, side, slots=2)
    left, right, other = instances.ask(0, [(0, 20), (0, 20), (1, 20)])
    assert left.handle.slot == right.handle.slot != other.handle.slot
    assert instances.pools[0].slots_in_use == 2


@SIDES
def test_two_lengths_of_a_user_in_a_batch_do_not_share_a_slot(truth: Truth, folder: Path, side: Side) -> None:
    instances = Instances(truth, folder, side, slots=3)
    (first,) = instances.ask(0, [(0, 17)])
    short, long = instances.ask(0, [(0, 18), (0, 20)])
    assert short.handle.slot == first.handle.slot != long.handle.slot


@SIDES
def test_users_without_events_share_a_slot_no_history_takes(truth: Truth, folder: Path, side: Side) -> None:
    instances = Instances(truth, folder, side, slots=3)
    (empty,) = instances.ask(0, [(0, 0)])
    (user,) = instances.ask(0, [(0, 1)])
    (again,) = instances.ask(0, [(1, 0)])
    assert user.handle.slot != empty.handle.slot == again.handle.slot
    assert again.computed == 0


@SIDES
def test_an_encoder_that_fails_leaves_no_slot_behind(truth: Truth, folder: Path, side: Side) -> None:
    instances = Instances(truth, folder, side, slots=1)
    instances.ask(0, [(0, 18)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instances.caches[0], "_encode", None)
        with pytest.raises(TypeError):
            instances.ask(0, [(0, 20)])
    assert instances.pools[0].slots_in_use == 0
    (after,) = instances.ask(0, [(0, 20)])
    assert after.computed == 21


def test_positions_of_several_requests_stand_without_padding_between(truth: Truth) -> None:
    encoder = HistoryEncoder(truth.graph, truth.vector_VE.__getitem__)
    shape = (2, 2, 2, MAX_HISTORY + 1, 4)
    histories = [truth.streams[user][:length] for user, length in enumerate((3, 9, 0))]
    layout = SlotLayout(slots=0, shape=shape, width=truth.model.config.width, precision="float64")
    with torch.inference_mode():
        encoder(
            SharedMemoryStorage(None, layout),
            [Prefill(history, 0, slot) for slot, history in enumerate(histories)],
        )
    assert encoder.padding == 1


class LaggingStorage(DeviceStorage):
    """Copies when it is waited for, as a device may: a copy that was launched has not happened yet."""

    copies = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._launched: list[Callable[[], None]] = []

    def copy(self, slot: int, source: SlotStorage, source_slot: int, length: int) -> None:
        self.copies += 1
        self._launched.append(lambda: super(LaggingStorage, self).copy(slot, source, source_slot, length))

    def synchronize(self) -> None:
        while self._launched:
            self._launched.pop(0)()


def test_a_prefix_is_complete_before_its_owner_is_asked_whether_it_still_shows_it(
    truth: Truth, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner overwrites the slot right after it was asked."""
    monkeypatch.setattr("tests.support.stand_in_device.DeviceStorage", LaggingStorage)
    instances = Instances(truth, folder, OnGpu, slots=1)
    instances.ask(0, [(0, 20)])
    shows = MappedPool.shows

    def shows_and_is_overwritten(pool: MappedPool, match: Match, chain: EventChain) -> bool:
        answer = shows(pool, match, chain)
        if instances.pools[1].storage.copies:
            instances.pools[0].storage.values_L2HPD.fill_(1e30)
        return answer

    monkeypatch.setattr(MappedPool, "shows", shows_and_is_overwritten)
    (taken,) = instances.ask(1, [(0, 20)])
    assert taken.computed == 0
    assert instances.pools[0].storage.values_L2HPD.eq(1e30).all()
