"""Slots for the histories of a batch: continued where a prefix is known, else filled from the start."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from ensemble.kv.event_chain import LEAST_REUSED, EventChain
from ensemble.kv.pool import Handle, KVPool, Match, PoolDirectory, no_slot
from ensemble.kv.prefill import CachedSequence, Prefill, Prefiller
from ensemble.kv.slot_storage import Storage
from unipinrec.data.history import History


@dataclass(frozen=True, slots=True)
class Encoded:
    """Where the keys, the values and the last hidden state of a history are, until the next batch."""

    place: CachedSequence
    handle: Handle
    computed: int
    """Positions that had to be computed."""


class ScratchHistories(Generic[Storage]):
    """Every history is encoded from the start, into spare slots that the next batch overwrites. This is what
    two separately served models do, and what ranking does when a slot is gone."""

    def __init__(self, encode: Prefiller[Storage], storage: Storage) -> None:
        self.storage = storage
        self._encode = encode
        self._computed = 0

    def encode(self, histories: Sequence[History], owners: Sequence[bytes] | None = None) -> list[Encoded]:
        """Encode every history whole, whoever they are of; return a result for each, in order."""
        del owners
        spare = range(self.storage.layout.slots, self.storage.layout.slots + len(histories))
        whole = [Prefill(history, 0, slot) for history, slot in zip(histories, spare, strict=True)]
        self._encode(self.storage, whole)
        lengths = [len(history) + 1 for history in histories]
        self._computed += sum(lengths)
        return [
            Encoded(CachedSequence(slot, length), no_slot(length), length)
            for slot, length in zip(spare, lengths, strict=True)
        ]

    def forget(self, owners: Collection[bytes]) -> None:
        """Do nothing: the next batch overwrites the spare slots."""

    def collect(self) -> Iterable[Metric]:
        """Yield the positions computed and padded; none is ever reused."""
        yield _positions(computed=self._computed, reused=0, padding=self._encode.padding)

    def close(self) -> None:
        """Do nothing: no slot outlives a batch."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A slot for one history of a batch; rows with equal histories share it."""

    history: History
    chain: EventChain
    slot: int
    """A spare slot where every slot of the pool was leased."""
    cached: int

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
        make_chain: Callable[[History, bytes], EventChain],
    ) -> None:
        self.storage = pool.storage
        self._encode = encode
        self._pool = pool
        self._others = others
        self._make_chain = make_chain
        self._spare_end = pool.storage.layout.slots
        self._counted: Counter[str] = Counter()

    def encode(self, histories: Sequence[History], owners: Sequence[bytes] | None = None) -> list[Encoded]:
        """Encode what is new of every history; return a result for each, in order, whose slot is complete.
        Histories of different `owners` share nothing; by default, all have the same."""
        owners = [b""] * len(histories) if owners is None else owners
        chains = [self._make_chain(*of) for of in zip(histories, owners, strict=True)]
        claims: dict[bytes, _Claim] = {}
        busy: set[int] = set()
        try:
            for history, chain in zip(histories, chains, strict=True):
                if chain.whole not in claims:
                    slot, cached = self._find_slot(chain, busy)
                    if slot is None:
                        slot = self.storage.layout.slots + len(claims) - len(busy)
                        self._spare_end = max(self._spare_end, slot + 1)
                    else:
                        busy.add(slot)
                    claims[chain.whole] = _Claim(history, chain, slot, cached)
            new = [Prefill(c.history, c.cached, c.slot) for c in claims.values() if c.computed]
            if new:
                self._encode(self.storage, new)
        except BaseException:
            for slot in busy:
                self._pool.abandon(slot)
            raise
        computed = sum(claim.computed for claim in claims.values())
        self._counted["computed"] += computed
        self._counted["reused"] += sum(len(chain) for chain in chains) - computed
        return [self._lease(claims[chain.whole]) for chain in chains]

    def forget(self, owners: Collection[bytes]) -> None:
        """Overwrite all that is kept of owners with zeros: their slots, and every spare slot, which may be
        anyone's. No batch may be under way; handles of it are invalid then."""
        self._counted["wiped"] += self._pool.wipe(owners)
        for slot in range(self.storage.layout.slots, self._spare_end):
            self.storage.clear(slot)

    def collect(self) -> Iterable[Metric]:
        """Yield the positions computed, reused and padded, and how full the pool is."""
        pool, storage = self._pool, self.storage
        yield _positions(
            computed=self._counted["computed"], reused=self._counted["reused"], padding=self._encode.padding
        )
        yield CounterMetricFamily(
            "unipinrec_kv_evictions", "Prefixes that gave their slot to another user", pool.evictions
        )
        yield CounterMetricFamily(
            "unipinrec_kv_pool_full", "Users for whom no slot was free", self._counted["full"]
        )
        yield CounterMetricFamily(
            "unipinrec_kv_wiped", "Slots that were wiped since their user was deleted", self._counted["wiped"]
        )
        yield GaugeMetricFamily("unipinrec_kv_slots", "Slots of the pool", storage.layout.slots)
        yield GaugeMetricFamily("unipinrec_kv_slots_in_use", "Slots that hold a prefix", pool.slots_in_use)
        yield GaugeMetricFamily("unipinrec_kv_pool_bytes", "Memory of the pool", storage.bytes)

    def close(self) -> None:
        """Remove the pool."""
        self._others.close()
        self._pool.close()

    def _find_slot(self, chain: EventChain, busy: set[int]) -> tuple[int | None, int]:
        """A slot for a history, and how many of its first positions the slot holds; None: all are leased."""
        own = self._pool.find(chain)
        if own is not None and (own.slot in busy or not _is_worth(own, chain)):
            own = None
        # A prefix that lacks more than the latest block is worth a look at the other pools.
        if own is None or own.length < chain.last_block:
            slot, cached = self._take_over(chain, own.length if own else 0)
            if slot is not None:
                return slot, cached
        if own is None:
            return self._pool.acquire(chain.owner), 0
        if self._pool.resume(own):
            return own.slot, _reusable(own, chain)
        slot = self._pool.acquire(chain.owner)
        if slot is None:
            return None, 0
        # The lease that forbids overwriting it also keeps it from being given to another user.
        self.storage.copy(slot, self.storage, own.slot, own.length)
        return slot, _reusable(own, chain)

    def _take_over(self, chain: EventChain, least: int) -> tuple[int | None, int]:
        """Copy the prefix that another instance holds, if it is longer than `least`."""
        for pool in self._others.others(self._pool.epoch):
            match = pool.find(chain)
            if match is None or match.length <= least or not _is_worth(match, chain):
                continue
            slot = self._pool.acquire(chain.owner)
            if slot is None:
                return None, 0
            self.storage.copy(slot, pool.storage, match.slot, match.length)
            # Checked once the copy is made: the other instance may have gone on with its slot meanwhile.
            self.storage.synchronize()
            if pool.shows(match, chain):
                return slot, _reusable(match, chain)
            self._pool.abandon(slot)
        return None, 0

    def _lease(self, claim: _Claim) -> Encoded:
        """The result of a row, under a lease of its own."""
        length = len(claim.chain)
        if claim.slot < self.storage.layout.slots:
            handle = self._pool.publish(claim.slot, claim.chain, claim.cached)
        else:
            handle = no_slot(length)
            self._counted["full"] += 1
        return Encoded(CachedSequence(claim.slot, length), handle, claim.computed)


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
