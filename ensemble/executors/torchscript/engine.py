"""The engine of a CPU; see `ensemble.executors.engine.Engine`."""

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
from unipinrec.graph import load_graph
from unipinrec.models.unified.files import ENCODER, RANKING_HEAD, RETRIEVAL_HEAD


class CpuEngine(SharedMemory):
    """TorchScript graphs over slots in shared memory, each loaded when it is first needed."""

    pool_wait_s = 0.0

    def __init__(self, loaded: LoadedBundle, precision: Precision) -> None:
        """`precision` is that of pools."""
        self._loaded = loaded
        self._precision = precision
        self._planner = QueryPlanner(loaded.manifest)

    def layout(self, slots: int) -> SlotLayout:
        """The layout of a pool of so many slots, in the precision that the engine was made with."""
        return SlotLayout.of_model(self._loaded.manifest.model, slots, self._precision)

    def private(self) -> SharedMemoryStorage:
        """A storage without slots of its own; spare ones are added as batches need them."""
        return SharedMemoryStorage(None, self.layout(slots=0))

    def prepare(self, storage: SharedMemoryStorage, uses: Sequence[Use]) -> None:
        """Load the graphs of these uses; each serves every storage."""
        del storage
        for use in uses:
            getattr(self, {"encode": "encode", "generate": "_generator", "score": "_scorer"}[use])

    @cached_property
    def encode(self) -> HistoryEncoder:
        """What fills slots, loaded at its first use."""
        return HistoryEncoder(load_graph(self._loaded.model_folder / ENCODER), self._vectors)

    def generate(
        self, storage: SharedMemoryStorage, asked: Sequence[Asked], places: Sequence[CachedSequence]
    ) -> list[Queries]:
        """Query embeddings of every request behind its encoded history, similar ones merged."""
        plans = [self._planner.plan(one) for one in asked]
        made = self._generator(storage, plans, asked, places)
        return [self._planner.finish(plan, vector_QE) for plan, vector_QE in zip(plans, made, strict=True)]

    def score(self, rows: Sequence[ScoringRow]) -> list[Floats]:
        """Action probabilities [K, A] of every row, in float32."""
        return self._scorer(rows)

    def collect(self) -> Iterable[Metric]:
        """No metrics: TorchScript graphs have nothing of their own to count."""
        return ()

    @cached_property
    def _generator(self) -> QueryGenerator:
        return QueryGenerator(load_graph(self._loaded.model_folder / RETRIEVAL_HEAD), self.encode)

    @cached_property
    def _scorer(self) -> CandidateScorer:
        return CandidateScorer(load_graph(self._loaded.model_folder / RANKING_HEAD), self._vectors)

    @cached_property
    def _vectors(self) -> Floats:
        return self._loaded.item_vectors()
