"""Whether a whole history tells more than its latest events: the nearest of all against the nearest of the
latest 100, in a model too small to hide what its features say.

Shapes: R requests, C candidates, N events of one request, A actions, F features, W content width, S rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from experiments.report import Machine, WrittenReport
from unipinrec.arrays import Bools, Float64s, Int64s
from unipinrec.config import Config
from unipinrec.data.download import Report
from unipinrec.data.interactions import InteractionDataset, split_at_time
from unipinrec.data.sequences import sequences_of
from unipinrec.evaluation.auc import auc, auc_difference
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.models.transact.batch import RequestBatch
from unipinrec.models.transact.examples import SlateConfig, SlateExamples
from unipinrec.simulator.config import LIFELONG, SimulatorConfig
from unipinrec.simulator.simulation import prepare_simulation
from unipinrec.simulator.truth import Truth

LATEST = 100
"""Events that a ranker without a lifelong sequence reads."""
TEST_SHARE = 0.2
"""Of the log's feedviews, the latest."""
ACTION = "click"
BAR = 0.01
"""AUC by which the whole history has to win."""
CHUNK = 64
"""Requests at once."""
EPOCHS, BATCH, HIDDEN, LEARNING_RATE = 8, 1024, 64, 2e-3
SOURCES = ("latest", "all", "both")
WORLDS = {
    "interests that drift away": SimulatorConfig(users=150, sessions=300),
    "interests that come back": LIFELONG,
}


class GateConfig(Config):
    """What is compared."""

    nearest: tuple[int, ...] = (16, 32, 64)
    """Events that a candidate gets."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the world, the draw of training feedviews, and the model."""
    training_feedviews: int = 60
    """Of each user, at most."""
    test_feedviews: int = 30
    """Of each user, the first of the test time, at most."""
    max_events: int = 16_000
    max_impressions: int = 1_000


class NearestReport(Config):
    """What models reach that see so many of the most similar events."""

    nearest: int
    auc: dict[str, float]
    """By where the events are from, means over seeds."""
    all_over_latest: Estimate
    """AUC of the whole history's less that of the latest events', paired by user; means over seeds, also of
    the interval's ends."""
    both_over_latest: Estimate
    by_seed: dict[str, tuple[float, ...]]


class WorldReport(Config):
    """One simulated world."""

    name: str
    simulator: SimulatorConfig
    events_per_user: float
    rates_auc: float
    """Of a model that sees rates and the history's length alone."""
    truth_auc: float
    rows: tuple[NearestReport, ...]

    @property
    def passed(self) -> bool:
        """Return whether the whole history wins by the bar, for every number of events."""
        return all(row.all_over_latest.mean >= BAR and row.all_over_latest.low > 0 for row in self.rows)


class GateReport(WrittenReport):
    """All worlds."""

    synthetic: bool = True
    config: GateConfig
    machine: Machine
    worlds: tuple[WorldReport, ...]


def run_gate(folder: Path, config: GateConfig, report: Report) -> GateReport:
    """Simulate each world with each seed in `folder`, unless it is there, and compare models on it."""
    worlds = []
    for number, (name, simulator) in enumerate(WORLDS.items()):
        found = []
        for seed in config.seeds:
            prepared = folder / f"world-{number}-seed-{seed}"
            if not prepared.exists():
                prepare_simulation(prepared, simulator.model_copy(update={"seed": seed}), report)
            found.append(Gate(prepared, config, seed).measure())
        worlds.append(_world(name, simulator, found, config))
        for row in worlds[-1].rows:
            gain = row.all_over_latest
            report(
                f"{name}, {row.nearest} nearest: all {row.auc['all']:.4f}, latest {row.auc['latest']:.4f}, "
                f"difference {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
            )
    return GateReport(config=config, machine=Machine.here(), worlds=tuple(worlds))


@dataclass(frozen=True, slots=True)
class Found:
    """What one seed's models reached."""

    events_per_user: float
    rates_auc: float
    truth_auc: float
    auc: dict[tuple[str, int], float]
    """By source and number."""
    over_latest: dict[tuple[str, int], Estimate]


def _world(name: str, simulator: SimulatorConfig, found: Sequence[Found], config: GateConfig) -> WorldReport:
    def mean(source: str, nearest: int) -> Estimate:
        ends = [astuple(seed.over_latest[source, nearest]) for seed in found]
        return Estimate(*np.mean(ends, axis=0).tolist())

    rows = []
    for nearest in config.nearest:
        by_seed = {source: tuple(seed.auc[source, nearest] for seed in found) for source in SOURCES}
        rows.append(
            NearestReport(
                nearest=nearest,
                auc={source: float(np.mean(values)) for source, values in by_seed.items()},
                all_over_latest=mean("all", nearest),
                both_over_latest=mean("both", nearest),
                by_seed=by_seed,
            )
        )
    means = {
        name: float(np.mean([getattr(seed, name) for seed in found]))
        for name in ("events_per_user", "rates_auc", "truth_auc")
    }
    return WorldReport(name=name, simulator=simulator, rows=tuple(rows), **means)


@dataclass(frozen=True, slots=True)
class Rows:
    """Shown rows with what a model may know of them."""

    other_SF: Tensor
    """Rates, and how long the history is."""
    near: dict[tuple[str, int], Tensor]
    """Of the nearest events, by source and number."""
    label_S: Bools
    user_S: Int64s

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return all rows as one."""
        near = {key: torch.cat([part.near[key] for part in parts]) for key in parts[0].near}
        return cls(
            torch.cat([part.other_SF for part in parts]),
            near,
            np.concatenate([part.label_S for part in parts]),
            np.concatenate([part.user_S for part in parts]),
        )

    def features(self, source: str, nearest: int) -> Tensor:
        """Return the features of one variant, [S, F]."""
        sources = ("latest", "all") if source == "both" else (source,)
        return torch.cat([self.other_SF, *(self.near[name, nearest] for name in sources)], dim=1)


class Gate:
    """One simulated dataset, on whose rows small models learn."""

    def __init__(self, folder: Path, config: GateConfig, seed: int) -> None:
        dataset = InteractionDataset.load(folder)
        self._truth = Truth.load(folder)
        self._dataset, self._config, self._seed = dataset, config, seed
        self._action = dataset.info.actions.index(ACTION)
        self._vector_VW = normalize(torch.from_numpy(dataset.content_VF), dim=1)
        time_F = dataset.feedviews.timestamp_F
        self._split = split_at_time(dataset, int(np.quantile(time_F, 1 - TEST_SHARE)))
        self._views = FutureFeedviews.of(dataset, self._split, config.test_feedviews)
        drawn = SlateConfig(
            feedviews_per_user=config.training_feedviews, kept_without_engagement=1.0, seed=seed
        )
        self._examples = SlateExamples(dataset, config, drawn, self._split)

    def measure(self) -> Found:
        """Train a model for every source and number of events, and compare them on held-out feedviews."""
        training, test = self._training_rows(), self._test_rows()

        label_S, user_S = test.label_S, test.user_S

        def scores(training_SF: Tensor, test_SF: Tensor) -> Float64s:
            return fitted_scores(training_SF, training.label_S, test_SF, self._seed)

        score_S = {
            key: scores(training.features(*key), test.features(*key))
            for key in product(SOURCES, self._config.nearest)
        }
        return Found(
            events_per_user=len(self._dataset.item_row_E) / len(self._dataset.user_ids_U),
            rates_auc=auc(scores(training.other_SF, test.other_SF), label_S),
            truth_auc=auc(self._true_scores(), label_S),
            auc={key: auc(value_S, label_S) for key, value_S in score_S.items()},
            over_latest={
                (source, nearest): auc_difference(value_S, score_S["latest", nearest], label_S, user_S)
                for (source, nearest), value_S in score_S.items()
            },
        )

    def _true_scores(self) -> Float64s:
        feedview_S = np.repeat(self._views.feedview_F, np.diff(self._views.offsets))
        true_SA = self._truth.shown_probabilities(feedview_S, np.concatenate(self._views.items()))
        return true_SA[:, self._action].astype(np.float64)

    def _training_rows(self) -> Rows:
        """The rows of one epoch's examples."""
        parts = [
            self._rows(batch.requests, batch.label_CA[:, self._action].numpy() > 0, batch.user_R.numpy())
            for batch in self._examples.batches(batch_size=CHUNK, seed=self._seed)
        ]
        return Rows.joined(parts)

    def _test_rows(self) -> Rows:
        """The rows of the held-out feedviews, with rates of items as they were at the cut."""
        views, rates = self._views, self._examples.base_rates()
        requests, items, parts = views.requests(), views.items(), []
        label_S = views.labels[:, self._action]
        for begin in range(0, len(requests), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            sequences = sequences_of(requests[chunk], self._config)
            offset_R1 = views.offsets[begin : begin + len(sequences) + 1]
            row_C = np.concatenate(items[chunk])
            batch = RequestBatch.of(
                sequences,
                row_C,
                offset_R1 - offset_R1[0],
                rates.users(sequences, self._config),
                rates.items(row_C),
            )
            parts.append(self._rows(batch, label_S[offset_R1[0] : offset_R1[-1]], views.user_F[chunk]))
        return Rows.joined(parts)

    def _rows(self, requests: RequestBatch, label_C: Bools, user_R: Int64s) -> Rows:
        request_C = requests.request_of_candidate
        of_user = (requests.user_rate_RA, requests.user_shown_R[:, None])
        length_R1 = requests.events.lengths.float().log1p()[:, None]
        other_CF = torch.cat(
            [
                *(column[request_C] for column in (*of_user, length_R1)),
                requests.item_rate_CA,
                requests.item_shown_C[:, None],
                requests.attribute_rate_CA,
            ],
            dim=1,
        )
        found = list(self._near(requests))
        near = {key: torch.cat([part[key] for part in found]) for key in found[0]}
        return Rows(other_CF, near, label_C, user_R[request_C.numpy()])

    def _near(self, requests: RequestBatch) -> Iterator[dict[tuple[str, int], Tensor]]:
        """Features of each request's candidates, by source and number."""
        events, bit_A = requests.events, 1 << torch.arange(len(self._dataset.info.actions))
        bounds = zip(events.offset_R1.tolist(), events.offset_R1[1:].tolist(), strict=False)
        candidates = requests.candidate_item_C.split(requests.candidate_offset_R1.diff().tolist())
        for (begin, end), item_C in zip(bounds, candidates, strict=True):
            similarity_CN = self._vector_VW[item_C] @ self._vector_VW[events.item_row_N[begin:end]].T
            acted_NA = (events.actions_N[begin:end, None] & bit_A != 0).float()
            yield {
                (source, nearest): nearest_features(similarity_CN[:, -most:], acted_NA[-most:], nearest)
                for source, most in (("latest", LATEST), ("all", end - begin))
                for nearest in self._config.nearest
            }


def nearest_features(similarity_CN: Tensor, acted_NA: Tensor, nearest: int) -> Tensor:
    """Return the mean similarity of the most similar events, alone and times each action on them, [C, 1 + A].

    Of fewer events than `nearest`, the missing ones count as 0.
    """
    found = similarity_CN.topk(min(nearest, similarity_CN.size(1)), dim=1)
    by_action_CA = torch.einsum("ck,cka->ca", found.values, acted_NA[found.indices])
    return torch.cat([found.values.sum(1, keepdim=True), by_action_CA], dim=1) / nearest


def fitted_scores(training_SF: Tensor, label_S: Bools, test_SF: Tensor, seed: int) -> Float64s:
    """Return the logits [S] that a small network, fitted on training rows, gives test rows."""
    torch.manual_seed(seed)
    mean_F, std_F = training_SF.mean(0), training_SF.std(0).clamp(min=1e-6)
    training_SF, test_SF = (training_SF - mean_F) / std_F, (test_SF - mean_F) / std_F
    first, second = nn.Linear(training_SF.size(1), HIDDEN), nn.Linear(HIDDEN, HIDDEN)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(HIDDEN, 1))
    target_S = torch.from_numpy(label_S).float()
    steps = EPOCHS * -(-len(target_S) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for row_B in torch.randperm(len(target_S)).split(BATCH):
            loss = binary_cross_entropy_with_logits(model(training_SF[row_B])[:, 0], target_S[row_B])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        logit_S: Float64s = model(test_SF)[:, 0].double().numpy()
    return logit_S
