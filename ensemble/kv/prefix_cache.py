"""Slots for the histories of a batch: continued where a prefix is known, else filled from the start."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from ensemble.kv.event_chain import EventChain
from ensemble.kv.pool import Handle, KVPool, Match, PoolDirectory, no_slot
from ensemble.kv.prefill import CachedSequence, Prefill, Prefiller
from ensemble.kv.slot_storage import SlotStorage
from unipinrec.data.history import History

LEAST_REUSED = 16
"""Positions below which a prefix is not worth a slot that may be somebody else's."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Where the keys, the values and the last hidden state of a history are, until the next batch."""

    place: CachedSequence
    handle: Handle
    computed: int
    """Positions that had to be computed."""


class HistoryCache(Protocol):
    """Where the histories of a batch get their keys and values from."""

    @property
    def storage(self) -> SlotStorage:
        """What the places of encoded histories are places in."""

    def encode(self, histories: Sequence[History]) -> list[Encoded]:
        """One result for each history, in order."""

    def collect(self) -> Iterable[Metric]:
        """What it has counted since its start, as a collector of Prometheus' library."""

    def close(self) -> None:
        """Give memory back."""


class ScratchHistories:
    """Every history is encoded from the start, into memory of this process that the next batch overwrites.

    What two separately served models do, and what ranking does when a slot is gone.
    """

    def __init__(self, encode: Prefiller, storage: SlotStorage) -> None:
        """`storage` has spare slots."""
        self.storage = storage
        self._encode = encode
        self._computed = 0

    def encode(self, histories: Sequence[History]) -> list[Encoded]:
        """Encode every history whole, into spare slots that the next batch overwrites."""
        spare = range(self.storage.layout.slots, self.storage.layout.slots + len(histories))
        whole = [Prefill(history, 0, slot) for history, slot in zip(histories, spare, strict=True)]
        self._encode(self.storage, whole)
        lengths = [len(history) + 1 for history in histories]
        self._computed += sum(lengths)
        return [
            Encoded(CachedSequence(slot, length), no_slot(length), length)
            for slot, length in zip(spare, lengths, strict=True)
        ]

    def collect(self) -> Iterable[Metric]:
        """Positions computed and padded; none is ever reused."""
        yield _positions(computed=self._computed, reused=0, padding=self._encode.padding)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A slot for one history of a batch; rows with equal histories share it."""

    history: History
    chain: EventChain
    slot: int | None
    """None where every slot was leased."""
    cached: int
    """Positions that the slot holds already."""

    @property
    def computed(self) -> int:
        return len(self.chain) - self.cached


class PrefixCache:
    """The KV pool of this instance, and the prefixes that other instances hold."""

    def __init__(
        self,
        encode: Prefiller,
        pool: KVPool,
        others: PoolDirectory,
        make_chain: Callable[[History], EventChain],
    ) -> None:
        self._encode = encode
        self._pool = pool
        self._others = others
        self._make_chain = make_chain
        self._counted: Counter[str] = Counter()

    @property
    def storage(self) -> SlotStorage:
        """The pool's own storage."""
        return self._pool.storage

    def encode(self, histories: Sequence[History]) -> list[Encoded]:
        """Encode what is new of every history; slots are complete before this returns."""
        chains = [self._make_chain(history) for history in histories]
        claims: dict[bytes, _Claim] = {}
        busy: set[int] = set()
        try:
            for history, chain in zip(histories, chains, strict=True):
                if chain.whole not in claims:
                    claims[chain.whole] = self._claim(history, chain, busy)
            places = self._fill(claims)
        except BaseException:
            for slot in busy:
                self._pool.abandon(slot)
            raise
        computed = sum(claim.computed for claim in claims.values())
        self._counted["computed"] += computed
        self._counted["reused"] += sum(len(chain) for chain in chains) - computed
        self._counted["full"] += sum(claims[chain.whole].slot is None for chain in chains)
        return [self._lend(claims[chain.whole], places[chain.whole]) for chain in chains]

    def collect(self) -> Iterable[Metric]:
        """Positions computed, reused and padded, and how full the pool is."""
        pool, storage = self._pool, self._pool.storage
        yield _positions(
            computed=self._counted["computed"], reused=self._counted["reused"], padding=self._encode.padding
        )
        yield CounterMetricFamily(
            "unipinrec_kv_evictions", "Prefixes that gave their slot to somebody else", pool.evictions
        )
        yield CounterMetricFamily(
            "unipinrec_kv_pool_full", "Users for whom no slot was free", self._counted["full"]
        )
        yield GaugeMetricFamily("unipinrec_kv_slots", "Slots of the pool", storage.layout.slots)
        yield GaugeMetricFamily("unipinrec_kv_slots_in_use", "Slots that hold a prefix", pool.slots_in_use)
        yield GaugeMetricFamily("unipinrec_kv_pool_bytes", "Memory of the pool", storage.bytes)

    def close(self) -> None:
        """Remove the pool."""
        self._others.close()
        self._pool.close()

    def _claim(self, history: History, chain: EventChain, busy: set[int]) -> _Claim:
        slot, cached = self._find(chain, busy)
        if slot is None:
            slot = self._pool.acquire()
        if slot is not None:
            busy.add(slot)
        return _Claim(history, chain, slot, cached)

    def _find(self, chain: EventChain, busy: set[int]) -> tuple[int | None, int]:
        """A slot that holds a prefix, to be continued, and the length of that prefix."""
        own = self._pool.find(chain)
        if own is not None and (own.slot in busy or not _is_worth(own, chain)):
            own = None
        # A prefix that lacks more than the latest block is worth a look at the other pools.
        if own is None or own.length < chain.last_block:
            slot, cached = self._take_over(chain, own.length if own else 0)
            if slot is not None:
                return slot, cached
        if own is None:
            return None, 0
        if self._pool.resume(own):
            return own.slot, _reusable(own, chain)
        slot = self._pool.acquire()
        if slot is None:
            return None, 0
        # The lease that forbids overwriting it also keeps it from being given to somebody else.
        self._pool.storage.copy(slot, self._pool.storage, own.slot, own.length)
        return slot, _reusable(own, chain)

    def _take_over(self, chain: EventChain, least: int) -> tuple[int | None, int]:
        """Copy the prefix that another instance holds, if it is longer than `least`."""
        for pool in self._others.others(self._pool.epoch):
            match = pool.find(chain)
            if match is None or match.length <= least or not _is_worth(match, chain):
                continue
            slot = self._pool.acquire()
            if slot is None:
                return None, 0
            self._pool.storage.copy(slot, pool.storage, match.slot, match.length)
            # Checked once the copy is made: the other instance may have gone on with its slot meanwhile.
            self._pool.storage.synchronize()
            if pool.shows(match, chain):
                return slot, _reusable(match, chain)
            self._pool.abandon(slot)
        return None, 0

    def _fill(self, claims: dict[bytes, _Claim]) -> dict[bytes, CachedSequence]:
        """Compute what no slot holds. Returns where each history is, by digest."""
        places: dict[bytes, CachedSequence] = {}
        fresh: list[Prefill] = []
        spare = self.storage.layout.slots
        for digest, claim in claims.items():
            slot = claim.slot
            if slot is None:
                slot, spare = spare, spare + 1
            places[digest] = CachedSequence(slot, len(claim.chain))
            if claim.computed:
                fresh.append(Prefill(claim.history, claim.cached, slot))
        if fresh:
            self._encode(self.storage, fresh)
        return places

    def _lend(self, claim: _Claim, place: CachedSequence) -> Encoded:
        """The result of one row, under a lease of its own."""
        handle = no_slot(place.length)
        if claim.slot is not None:
            handle = self._pool.publish(claim.slot, claim.chain, claim.cached)
        return Encoded(place, handle, claim.computed)


def _is_worth(match: Match, chain: EventChain) -> bool:
    return match.length >= min(LEAST_REUSED, len(chain))


def _reusable(match: Match, chain: EventChain) -> int:
    """Positions that need not be computed: in a longer slot, the hidden state after the last one is lost."""
    return match.length if match.whole else min(match.length, len(chain) - 1)


def _positions(**count: int) -> CounterMetricFamily:
    family = CounterMetricFamily(
        "unipinrec_positions", "Positions of histories by what became of them", labels=["kind"]
    )
    for kind, value in count.items():
        family.add_metric([kind], value)
    return family
