"""The engine of a CPU: the bundle's TorchScript graphs."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from prometheus_client.metrics_core import Metric

from ensemble.arrays import Floats
from ensemble.executors.engine import ScoringRow, Use
from ensemble.executors.generation import Asked, Queries, QueryPlanner
from ensemble.executors.torchscript.encoder import HistoryEncoder
from ensemble.executors.torchscript.generator import QueryGenerator
from ensemble.executors.torchscript.scorer import CandidateScorer
from ensemble.kv.prefill import CachedSequence
from ensemble.kv.shared_memory import SharedMemory, SharedMemoryStorage
from ensemble.kv.slot_storage import SlotLayout
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import Precision
from ensemble.stores.served_items import ServedItems
from unipinrec.graph import load_graph
from unipinrec.models.unified.files import ENCODER, RANKING_HEAD, RETRIEVAL_HEAD


class CpuEngine(SharedMemory):
    """TorchScript graphs over slots in shared memory, each loaded when it is first needed."""

    pool_wait_s = 0.0

    def __init__(self, loaded: LoadedBundle, precision: Precision, items: ServedItems | None = None) -> None:
        """`precision` is that of pools. Without `items`, those of the bundle alone are there."""
        self._items = items or ServedItems(loaded, None)
        self._loaded = loaded
        self._precision = precision
        self._planner = QueryPlanner(loaded.manifest)

    def layout(self, slots: int) -> SlotLayout:
        """Return the layout of a pool of so many slots, in the precision that the engine was made with."""
        return SlotLayout.of_model(self._loaded.manifest.model, slots, self._precision)

    def private(self) -> SharedMemoryStorage:
        """Return a storage of spare slots alone, which batches add as they need them."""
        return SharedMemoryStorage(None, self.layout(slots=0))

    def prepare(self, storage: SharedMemoryStorage, uses: Sequence[Use]) -> None:
        """Load the graphs of these uses; each serves every storage."""
        del storage
        for use in uses:
            getattr(self, {"encode": "encode", "generate": "_generator", "score": "_scorer"}[use])

    def generate(
        self, storage: SharedMemoryStorage, asked: Sequence[Asked], places: Sequence[CachedSequence]
    ) -> list[Queries]:
        """Return the query embeddings of every request behind its encoded history, similar ones merged."""
        plans = [self._planner.plan(request) for request in asked]
        made = self._generator(storage, plans, asked, places)
        return [self._planner.finish(plan, vector_QE) for plan, vector_QE in zip(plans, made, strict=True)]

    def score(self, rows: Sequence[ScoringRow[SharedMemoryStorage]]) -> list[Floats]:
        """Return action probabilities [K, A] of every row, in float32."""
        return self._scorer(rows)

    def collect(self) -> Iterable[Metric]:
        """Yield nothing: TorchScript graphs have nothing of their own to count."""
        return ()

    @cached_property
    def encode(self) -> HistoryEncoder:
        """Fills slots; loaded at its first use."""
        return HistoryEncoder(load_graph(self._loaded.model_folder / ENCODER), self._items.vectors_of)

    @cached_property
    def _generator(self) -> QueryGenerator:
        return QueryGenerator(load_graph(self._loaded.model_folder / RETRIEVAL_HEAD), self.encode)

    @cached_property
    def _scorer(self) -> CandidateScorer:
        return CandidateScorer(load_graph(self._loaded.model_folder / RANKING_HEAD), self._items)
