"""What else the hot path could be: other precisions, other compilers, other storage of keys and values.

Everything runs in this process on one thread, with the sizes of `bench-cpu`; the differences of probabilities
are those of random weights with widely spread scores, or of a bundle's own.

Shapes: B requests, K candidates, A actions.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ensemble.executors.torchscript.engine import CpuEngine
from ensemble.kv.shared_memory import bytes_of
from ensemble.kv.slot_storage import SlotLayout
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.ann import AnnNode
from ensemble.nodes.history import HistoryNode
from ensemble.nodes.node import Node
from ensemble.nodes.ranking import RankingNode
from ensemble.nodes.retrieval import RetrievalNode
from ensemble.nodes.scoring import ScoringNode
from ensemble.settings import SHARED_MEMORY, Precision, ServingSettings
from ensemble.stores.lmdb_store import LmdbHistoryStore
from experiments.report import Machine
from unipinrec.bundle import read_manifest
from unipinrec.config import Config
from unipinrec.models.config import ModelConfig
from unipinrec.models.unified.config import preset
from unipinrec.models.unified.graphs import EncoderGraph, RankingHeadGraph
from unipinrec.models.unified.module import UnifiedRecommender

EVENTS, CANDIDATES, APPENDED = 512, 128, 8
ITEMS, ACTIONS = 1_000, 4
TOP = 10
NOW = 1_800_000_000
WARM_UP = 3
"""Calls that do not count: graphs are optimised or compiled in their first runs."""

WEIGHT_STD, RANKING_STD = 0.15, 0.3
"""As random bundles have them: scores of different items are far apart."""


class Compute(Config):
    """One way to run the graphs."""

    name: str
    prefill_ms: float
    append_ms: float
    ranking_ms: float
    largest_difference: float
    """Of any candidate's probability, from float32 in eager PyTorch."""


class Storage(Config):
    """One precision of the KV pool, on stored users."""

    precision: Precision
    slot_bytes: int
    users_per_gib: int
    largest_difference: float
    """Of any result's probability, from float32, with the same candidates."""
    mean_difference: float
    top_10_overlap: float
    """Share of the ten best results that float32 has too."""
    again_ms: float
    """Median of a whole request whose history is cached."""


class OptionsReport(Config):
    """What `unipinrec bench-options` found."""

    machine: Machine
    runs: int
    compute: tuple[Compute, ...]
    bundle: str
    users: int
    storage: tuple[Storage, ...]

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n")


def measure_options(bundle: Path, users: int, runs: int, tell: Callable[[str], None]) -> OptionsReport:
    """Measure all options on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        compute = tuple(_compute(runs, tell))
        storage, asked = measure_storage(bundle, users, tell)
    finally:
        torch.set_num_threads(threads)
    return OptionsReport(
        machine=Machine.here(),
        runs=runs,
        compute=compute,
        bundle=read_manifest(bundle).dataset,
        users=asked,
        storage=storage,
    )


class _Work:
    """One request's inputs of the exported graphs, the same for every way to run them."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        draw = torch.Generator().manual_seed(3)
        positions = EVENTS + 1
        filled = -(-positions // 16) * 16
        self._vector = nn.functional.normalize(torch.randn(filled, config.item_dim, generator=draw), dim=-1)
        self._candidate = nn.functional.normalize(
            torch.randn(1, CANDIDATES, config.item_dim, generator=draw), dim=-1
        )
        self._dtype = dtype
        self._timestamp = 1_700_000_000 + torch.randint(9_000, (filled,), generator=draw).cumsum(0)
        self._actions = torch.randint(2**ACTIONS, (filled,), generator=draw)
        self.slot = torch.zeros(
            config.layers, 2, config.heads, config.max_positions, config.head_dim, dtype=dtype
        )

    def encode(self, graph: Callable[..., Tensor], cached: int) -> None:
        count = EVENTS + 1 - cached
        filled = -(-count // 16) * 16
        rows = torch.arange(cached, cached + filled).clamp(max=EVENTS)
        timestamp = self._timestamp[rows]
        graph(
            self._vector[rows].to(self._dtype),
            self._actions[rows],
            torch.zeros_like(rows, dtype=torch.bool),
            timestamp,
            timestamp - 60,
            torch.zeros_like(rows),
            rows,
            [0],
            [cached],
            [count],
            [self.slot],
        )

    def rank(self, graph: Callable[..., Tensor]) -> Tensor:
        time_B, surface_B = self._timestamp[-1:], torch.zeros(1, dtype=torch.long)
        return graph(self._candidate.to(self._dtype), time_B, surface_B, [self.slot])


def _compute(runs: int, tell: Callable[[str], None]) -> Sequence[Compute]:
    config = preset("bench-cpu", num_items=ITEMS, num_actions=ACTIONS, max_history=EVENTS)
    torch.manual_seed(1)
    model = UnifiedRecommender(config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=RANKING_STD if "ranking_head" in name else WEIGHT_STD)
    graphs = (EncoderGraph(model).eval(), RankingHeadGraph(model).eval())
    ways: dict[str, tuple[torch.dtype, Callable[[], Sequence[Callable[..., Tensor]]]]] = {
        "float32, eager": (torch.float32, lambda: graphs),
        "float32, TorchScript (served)": (torch.float32, lambda: [_scripted(graph) for graph in graphs]),
        "float32, torch.compile": (torch.float32, lambda: [torch.compile(graph) for graph in graphs]),
        "bfloat16, TorchScript": (torch.bfloat16, lambda: [_scripted(graph.bfloat16()) for graph in graphs]),
    }
    found: list[Compute] = []
    expected: Tensor | None = None
    for name, (dtype, make) in ways.items():
        encoder, ranking = make()
        work = _Work(config, dtype)
        with torch.inference_mode():
            prefill_ms = _median_ms(partial(work.encode, encoder, 0), runs)
            probability_KA = work.rank(ranking)[0].float()
            expected = probability_KA if expected is None else expected
            found.append(
                Compute(
                    name=name,
                    prefill_ms=prefill_ms,
                    append_ms=_median_ms(partial(work.encode, encoder, EVENTS + 1 - APPENDED), runs),
                    ranking_ms=_median_ms(partial(work.rank, ranking), runs),
                    largest_difference=float((probability_KA - expected).abs().max()),
                )
            )
        tell(str(found[-1]))
    return found


def _scripted(graph: nn.Module) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        # TorchScript is deprecated upstream; it is what a bundle holds.
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen: Callable[..., Tensor] = torch.jit.freeze(torch.jit.script(graph))
    return frozen


def measure_storage(bundle: Path, users: int, tell: Callable[[str], None]) -> tuple[tuple[Storage, ...], int]:
    """Every precision of the pool, on the same candidates of the same stored users."""
    loaded = LoadedBundle.open(bundle)
    settings = ServingSettings(bundle=bundle, pool_slots=4)
    # One after the other: a process may open a store once.
    with LmdbHistoryStore(settings.histories) as store:
        names = store.first_users(users)
    history, ann = HistoryNode(loaded, settings), AnnNode(loaded, settings)
    scoring = ScoringNode(loaded, settings)
    assembled = [_renamed(history.pack(history.run(history.parse(_request(name))))) for name in names]
    history.close()
    found: list[Storage] = []
    candidates: list[Tensors] = []
    expected: list[Tensors] = []
    for precision in get_args(Precision):
        with tempfile.TemporaryDirectory(prefix="unipinrec-options-", dir=SHARED_MEMORY) as folder:
            chosen = settings.model_copy(update={"runtime_dir": Path(folder), "kv_precision": precision})
            engine = CpuEngine(loaded, precision)
            retrieval, ranking = (
                RetrievalNode(loaded, chosen, engine, "retrieval_0"),
                RankingNode(loaded, chosen, engine),
            )
            answers, again_ms = [], []
            for place, tensors in enumerate(assembled):
                # Most of the history is cached, in this precision, before its last events are.
                shorter = {
                    name: array[:, : max(1, array.shape[1] - APPENDED)]
                    if name.startswith("EVENT_")
                    else array
                    for name, array in tensors.items()
                }
                _run(retrieval, shorter)
                retrieved = tensors | _run(retrieval, tensors)
                if len(candidates) == place:
                    candidates.append(_run(ann, retrieved))
                ranked = retrieved | candidates[place]
                answers.append(_run(scoring, ranked | _run(ranking, ranked)))
                began = time.perf_counter()
                _run(ranking, tensors | _run(retrieval, tensors) | candidates[place])
                again_ms.append(1e3 * (time.perf_counter() - began))
            retrieval.close()
        expected = expected or answers
        slot_bytes = bytes_of(SlotLayout.of_model(loaded.manifest.model, 1, precision))
        found.append(_compared(precision, slot_bytes, expected, answers, statistics.median(again_ms)))
        tell(str(found[-1]))
    return tuple(found), len(names)


Tensors = dict[str, NDArray[Any]]


def _run(node: Node[Any, Any], tensors: Tensors) -> Tensors:
    return node.pack(node.run(node.parse(tensors)))


def _request(user: bytes) -> Tensors:
    return {"USER_ID": np.array([[user]], np.object_), "REQUEST_TIME": np.array([[NOW]])}


def _renamed(tensors: Tensors) -> Tensors:
    return tensors | {name.removeprefix("RESOLVED_"): tensor for name, tensor in tensors.items()}


def _compared(
    precision: Precision,
    slot_bytes: int,
    expected: Sequence[Tensors],
    answers: Sequence[Tensors],
    again_ms: float,
) -> Storage:
    largest, total, overlap = 0.0, 0.0, 0.0
    for right, answer in zip(expected, answers, strict=True):
        # The same items, each list in an order of its own.
        shared, place, other = np.intersect1d(
            right["ITEM_IDS"][0], answer["ITEM_IDS"][0], return_indices=True
        )
        difference = np.abs(right["ACTION_PROBS"][0, place] - answer["ACTION_PROBS"][0, other])
        largest = max(largest, float(difference.max()))
        total += float(difference.mean())
        best = np.intersect1d(right["ITEM_IDS"][0, :TOP], answer["ITEM_IDS"][0, :TOP])
        overlap += len(best) / min(TOP, len(shared))
    return Storage(
        precision=precision,
        slot_bytes=slot_bytes,
        users_per_gib=2**30 // slot_bytes,
        largest_difference=largest,
        mean_difference=total / len(answers),
        top_10_overlap=overlap / len(answers),
        again_ms=again_ms,
    )


def _median_ms(call: Callable[[], object], runs: int) -> float:
    taken = []
    for _ in range(WARM_UP + runs):
        began = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken[WARM_UP:])
