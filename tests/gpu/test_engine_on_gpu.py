"""The engine alone: answers against offline PyTorch, and graphs against the same calls without them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensemble.executors.cuda.engine import GpuEngine, GpuOptions
from ensemble.executors.engine import ScoringRow
from ensemble.executors.generation import Asked
from ensemble.kv.cuda.device_storage import DeviceStorage
from ensemble.kv.prefill import CachedSequence, Prefill
from ensemble.loaded_bundle import LoadedBundle
from tests.conftest import ACTIONS, ITEMS, USERS, Exported
from unipinrec.data.history import History
from unipinrec.data.window import window_start
from unipinrec.models.unified.offline import OfflineRecommender, OfflineRequest

NOW = 1_750_000_000
SLOTS, BATCHES = 24, (1, 4)
ENCODED, GENERATED, SCORED = 6, 2, 2
"""Graphs: histories of 16, 64 and 129 new positions, one size of generation and one of 128 candidates, each
for batches of 1 and 4."""
FLOAT32, BFLOAT16 = 1e-4, 0.03
"""Largest difference of a probability to offline PyTorch."""


class Subject:
    """An engine with a storage of its own."""

    def __init__(self, loaded: LoadedBundle, device: torch.device, **options: Any) -> None:
        chosen = GpuOptions(batches=BATCHES, **options)
        # Collecting the tests must not need what a host without a GPU lacks.
        from ensemble.kv.cuda.cuda_memory import CudaAllocator

        self.engine = GpuEngine(loaded, CudaAllocator(device), chosen)
        self.storage: DeviceStorage = self.engine.create(Path("unused"), self.engine.layout(SLOTS))
        self.encoded: dict[int, History] = {}

    def metrics(self) -> Counter[str]:
        """Samples by name, and by the value of their only label where they have one."""
        found: Counter[str] = Counter()
        for family in self.engine.collect():
            for sample in family.samples:
                found["/".join([sample.name, *sample.labels.values()])] += int(sample.value)
        return found

    def poison(self) -> None:
        """Spoil what no answer may depend on: spare slots, scratch blocks and the null block."""
        where = self.storage.map
        self.storage.values_L2HPD[:, :, :, where.begin(SLOTS) :] = torch.nan
        self.storage.hidden_RC[SLOTS:] = torch.nan

    @torch.inference_mode()
    def encode(self, histories: list[Prefill]) -> None:
        self.engine.encode(self.storage, histories)
        self.storage.synchronize()
        self.encoded |= {prefill.slot: prefill.history for prefill in histories}

    @torch.inference_mode()
    def query(self, slots: list[int], lengths: list[int]) -> list[np.ndarray]:
        asked = [Asked(NOW, 0, NOW - 60, 20, np.array([0, 1, 0], np.float32)) for _ in slots]
        places = [CachedSequence(slot, length) for slot, length in zip(slots, lengths, strict=True)]
        return [made.vector_QE for made in self.engine.generate(self.storage, asked, places)]

    @torch.inference_mode()
    def score(self, slots: list[int], lengths: list[int], candidates: list[np.ndarray]) -> list[np.ndarray]:
        return self.engine.score(
            [
                ScoringRow(
                    self.storage,
                    CachedSequence(slot, length),
                    row_K,
                    NOW,
                    0,
                    self.encoded[slot],
                    self.storage.hidden(slot).cpu().numpy(),
                )
                for slot, length, row_K in zip(slots, lengths, candidates, strict=True)
            ]
        )


def windows(exported: Exported) -> list[History]:
    """What the trunk reads of every user's history."""
    config = exported.model.config
    whole = [exported.dataset.history(user) for user in range(USERS)]
    return [
        history[window_start(len(history), config.max_history, config.window_block) :] for history in whole
    ]


def some_candidates(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(ITEMS)[:count]


@pytest.mark.parametrize(
    ("options", "largest"),
    [
        ({"precision": "float32"}, FLOAT32),
        ({"precision": "bfloat16"}, BFLOAT16),
        ({"precision": "bfloat16", "item_precision": "bfloat16"}, BFLOAT16),
        ({"precision": "bfloat16", "item_precision": "int8"}, 2 * BFLOAT16),
    ],
    ids=["float32", "bfloat16", "bfloat16-items", "int8-items"],
)
def test_probabilities_are_those_of_offline_pytorch(
    loaded: LoadedBundle, exported: Exported, device: torch.device, options: dict[str, str], largest: float
) -> None:
    subject = Subject(loaded, device, **options)
    histories = windows(exported)[:SLOTS]
    subject.encode([Prefill(history, 0, slot) for slot, history in enumerate(histories[:4])])
    for slot, history in enumerate(histories[4:], start=4):
        half = max(1, len(history) // 2)
        subject.encode([Prefill(history[:half], 0, slot)])
        subject.poison()
        if half < len(history):
            subject.encode([Prefill(history, half + 1, slot)])
    candidates = [some_candidates(slot, 1 + 5 * slot) for slot in range(SLOTS)]
    found = []
    for first in range(0, SLOTS, 3):
        slots = list(range(first, min(SLOTS, first + 3)))
        lengths = [len(histories[slot]) + 1 for slot in slots]
        found += subject.score(slots, lengths, [candidates[slot] for slot in slots])
    requests = [OfflineRequest(history=history, request_time=NOW) for history in histories]
    right = OfflineRecommender(exported.model).action_probabilities(requests, candidates)
    for slot, (found_KA, right_KA) in enumerate(zip(found, right, strict=True)):
        assert np.abs(found_KA - right_KA.numpy()).max() < largest, f"user {slot}"


@pytest.fixture(scope="module")
def graphs_and_launches(loaded: LoadedBundle, device: torch.device) -> tuple[Subject, Subject]:
    """Two engines that differ in nothing but how they launch."""
    subjects = [Subject(loaded, device, capture=capture) for capture in (True, False)]
    for subject in subjects:
        subject.engine.prepare(subject.storage, ("encode", "generate", "score"))
    return subjects[0], subjects[1]


def test_every_shape_is_captured_before_it_is_needed(
    graphs_and_launches: tuple[Subject, Subject],
) -> None:
    graphs, launches = graphs_and_launches
    assert graphs.metrics()["unipinrec_cuda_graphs"] == ENCODED + GENERATED + SCORED
    assert launches.metrics()["unipinrec_cuda_graphs"] == 0


def test_replays_equal_launches_bit_for_bit_in_any_order(
    graphs_and_launches: tuple[Subject, Subject], exported: Exported
) -> None:
    """Every shape comes up many times, after different ones, with spoilt padding before each call."""
    draw = np.random.default_rng(9)
    histories = windows(exported)
    before = [subject.metrics() for subject in graphs_and_launches]
    for _ in range(60):
        rows = int(draw.integers(1, 5))
        slots = draw.permutation(SLOTS)[:rows].tolist()
        longest = int(draw.choice([15, 60, 128]))
        chosen = [histories[user][:longest] for user in draw.integers(USERS, size=rows)]
        lengths = [len(history) + 1 for history in chosen]
        seeds = draw.integers(10_000, size=rows).tolist()
        candidates = [some_candidates(seed, 1 + seed % 128) for seed in seeds]
        answers = []
        for subject in graphs_and_launches:
            subject.poison()
            subject.encode([Prefill(history, 0, slot) for history, slot in zip(chosen, slots, strict=True)])
            subject.poison()
            queries = subject.query(slots, lengths)
            subject.poison()
            answers.append((queries, subject.score(slots, lengths, candidates)))
        for replayed, launched in zip(*answers, strict=True):
            for by_graph, by_launch in zip(replayed, launched, strict=True):
                assert np.isfinite(by_graph).all()
                assert np.array_equal(by_graph, by_launch)
        for slot, length in zip(slots, lengths, strict=True):
            replayed_slot, launched_slot = (kept(subject, slot, length) for subject in graphs_and_launches)
            assert torch.equal(replayed_slot, launched_slot)
    graphs, launches = (
        subject.metrics() - past for subject, past in zip(graphs_and_launches, before, strict=True)
    )
    assert graphs["unipinrec_launches_total/graph"] == launches["unipinrec_launches_total/eager"] >= 180
    assert graphs["unipinrec_launches_total/eager"] == launches["unipinrec_launches_total/graph"] == 0


def kept(subject: Subject, slot: int, length: int) -> torch.Tensor:
    begin = subject.storage.map.begin(slot)
    return subject.storage.values_L2HPD[:, :, :, begin : begin + length]


def test_the_last_action_has_a_probability_too(
    graphs_and_launches: tuple[Subject, Subject], exported: Exported
) -> None:
    subject, history = graphs_and_launches[0], windows(exported)[0]
    subject.encode([Prefill(history, 0, 0)])
    (probability_KA,) = subject.score([0], [len(history) + 1], [some_candidates(1, 128)])
    assert probability_KA.shape == (128, len(ACTIONS))
    assert ((probability_KA > 0) & (probability_KA < 1)).all()
