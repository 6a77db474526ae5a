"""Trains every variant of a recipe with every seed, and measures all of them on the same held-out data."""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

from experiments.recipes import Recipe
from experiments.report import Difference, EvaluationReport, Machine, Row
from experiments.scores import Labelled, Values, leave_one_out_values, mean_values, rates_scores
from experiments.variants import Variant
from unipinrec.baselines.markov import Markov
from unipinrec.baselines.popularity import Popularity
from unipinrec.checkpoint import latest_checkpoint, load_model
from unipinrec.data.blended import BlendedDataset
from unipinrec.data.interactions import InteractionDataset, Split, split_at_time, split_leave_one_out
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.evaluation.leave_one_out import RetrievalScorer
from unipinrec.model import UnifiedRecommender
from unipinrec.offline import OfflineRecommender
from unipinrec.training import train

SECONDS = "seconds.txt"

Report = Callable[[str], None]
Scores = NDArray[np.float32]


class Runner:
    """One recipe on one dataset. Checkpoints are kept, so that a run that stops goes on where it was."""

    def __init__(self, recipe: Recipe, dataset: InteractionDataset, folder: Path, report: Report) -> None:
        self._recipe = recipe
        self._dataset = dataset
        self._folder = folder
        self._report_line = report
        self._split = self._make_split()
        self._values: dict[str, dict[str, Values]] = {}

    def run(self, workers: int) -> EvaluationReport:
        """Train and measure; takes as long as the recipe's budget says."""
        began = time.perf_counter()
        self._train_all(workers)
        rows = self._rows()
        return EvaluationReport(
            dataset=self._recipe.dataset,
            synthetic=self._recipe.synthetic,
            protocol=self._recipe.protocol,
            users=len(self._dataset.user_ids_U),
            items=len(self._dataset.item_ids_V),
            minutes=round((time.perf_counter() - began) / 60, 2),
            machine=Machine.here(),
            rows=tuple(rows),
            differences=tuple(self._differences(rows[0].model, [row.model for row in rows[1:]])),
        )

    def _make_split(self) -> Split:
        if self._recipe.protocol == "leave_one_out":
            return split_leave_one_out(self._dataset)
        time_F = self._dataset.feedviews.timestamp_F
        return split_at_time(self._dataset, int(np.quantile(time_F, 1 - self._recipe.test_share)))

    def _train_all(self, workers: int) -> None:
        """Train every variant with every seed, one thread each: small models gain little from more.

        What is finished is not trained again.
        """
        runs = [(variant, seed) for variant in self._recipe.variants for seed in self._recipe.seeds]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, _one_thread) as pool, Progress() as bar:
            task = bar.add_task("training", total=len(runs))
            futures = {
                pool.submit(
                    train_variant,
                    self._recipe,
                    self._dataset,
                    self._split,
                    variant,
                    seed,
                    self._training_folder(variant, seed),
                ): f"{variant.name}, seed {seed}"
                for variant, seed in runs
            }
            for future in as_completed(futures):
                seconds = future.result()
                bar.advance(task)
                self._report_line(f"{futures[future]}: trained in {seconds} s")

    def _rows(self) -> list[Row]:
        if self._recipe.protocol == "leave_one_out":
            trained = [self._trained_row(variant, self._leave_one_out) for variant in self._recipe.variants]
            return trained + self._counting_rows()
        views = FutureFeedviews.of(self._dataset, self._split, self._recipe.feedviews_per_user)
        labelled = Labelled.of(views)
        self._report_line(
            f"test: {len(views.feedview_F)} feedviews of {len(set(views.user_F.tolist()))} users"
        )

        def measure(
            variant: Variant, model: UnifiedRecommender
        ) -> tuple[dict[str, Values], dict[str, Estimate]]:
            return self._feedviews(labelled, variant, model)

        trained = [self._trained_row(variant, measure) for variant in self._recipe.variants]
        return [*trained, self._rates_row(labelled)]

    def _trained_row(
        self,
        variant: Variant,
        measure: Callable[[Variant, UnifiedRecommender], tuple[dict[str, Values], dict[str, Estimate]]],
    ) -> Row:
        """Every seed of one variant."""
        runs: list[dict[str, Values]] = []
        areas: list[dict[str, Estimate]] = []
        seconds = []
        for seed in self._recipe.seeds:
            folder = self._training_folder(variant, seed)
            model = load_model(self._checkpoint(folder), variant.make_model)
            seconds.append(float((folder / SECONDS).read_text()))
            values, area = measure(variant, model)
            runs.append(values)
            areas.append(area)
            means = {name: float(one.value_X.mean()) for name, one in values.items()}
            means |= {name: one.mean for name, one in area.items()}
            shown = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
            self._report_line(f"{variant.name}, seed {seed}, {seconds[-1]} s: {shown}")
        merged = {name: mean_values([run[name] for run in runs]) for name in runs[0]}
        self._values[variant.name] = merged
        by_seed = {name: tuple(float(run[name].value_X.mean()) for run in runs) for name in runs[0]}
        by_seed |= {name: tuple(area[name].mean for area in areas) for name in areas[0]}
        return Row(
            model=variant.name,
            what=variant.what,
            seeds=self._recipe.seeds,
            settings={
                "p_mask": self._recipe.training_config(variant, 0).action_mask_probability,
                "layers": model.config.layers,
                "events": model.config.max_history,
            },
            parameters=sum(weight.numel() for weight in model.parameters()),
            training_seconds=tuple(seconds),
            flops=forward_flops(model),
            metrics={name: one.estimate() for name, one in merged.items()} | mean_areas(areas),
            by_seed=by_seed,
            losses=losses(self._training_folder(variant, self._recipe.seeds[0])),
        )

    def _training_folder(self, variant: Variant, seed: int) -> Path:
        return self._folder / "training" / f"{variant.name}-{seed}"

    def _checkpoint(self, folder: Path) -> Path:
        checkpoint = latest_checkpoint(folder)
        if checkpoint is None:
            raise FileNotFoundError(f"{folder} holds no checkpoint")
        return checkpoint

    def _leave_one_out(
        self, variant: Variant, model: UnifiedRecommender
    ) -> tuple[dict[str, Values], dict[str, Estimate]]:
        del variant
        return leave_one_out_values(RetrievalScorer(model, self._dataset), self._dataset, self._split), {}

    def _counting_rows(self) -> list[Row]:
        history_U = self._split.train_end_U + 1
        popularity = Popularity(self._dataset, history_U)
        markov = Markov(self._dataset, history_U, popularity)
        rows = []
        for name, what, scorer in (
            ("markov", "first-order transitions, popularity fill", markov),
            ("popularity", "number of events", popularity),
        ):
            self._values[name] = leave_one_out_values(scorer, self._dataset, self._split)
            metrics = {metric: one.estimate() for metric, one in self._values[name].items()}
            rows.append(Row(model=name, what=what, metrics=metrics))
        return rows

    def _feedviews(
        self, labelled: Labelled, variant: Variant, model: UnifiedRecommender
    ) -> tuple[dict[str, Values], dict[str, Estimate]]:
        recommender = OfflineRecommender(model)
        values: dict[str, Values] = {}
        areas: dict[str, Estimate] = {}
        with Progress(transient=True) as bar:
            task = bar.add_task(f"measuring {variant.name}", total=None)

            def progress(count: int) -> None:
                bar.update(task, advance=count)

            if variant.ranks:
                score_SA = labelled.views.probabilities(recommender, progress)
                values |= labelled.hits(score_SA)
                areas |= labelled.areas(score_SA)
            if variant.retrieves:
                values |= labelled.recall(recommender, progress)
        return values, areas

    def _rates_row(self, labelled: Labelled) -> Row:
        score_SA = rates_scores(labelled, self._split)
        self._values["rates"] = labelled.hits(score_SA)
        metrics = {name: one.estimate() for name, one in self._values["rates"].items()}
        what = "smoothed user rate x item rate"
        return Row(model="rates", what=what, metrics=metrics | labelled.areas(score_SA))

    def _differences(self, first: str, others: Sequence[str]) -> list[Difference]:
        found = []
        for other in others:
            for metric, values in self._values[other].items():
                if metric in self._values[first]:
                    estimate = self._values[first][metric].minus(values)
                    found.append(Difference(a=first, b=other, metric=metric, estimate=estimate))
        return found


def train_variant(
    recipe: Recipe, dataset: InteractionDataset, split: Split, variant: Variant, seed: int, folder: Path
) -> float:
    """Train one variant in this process and return the seconds it took; what it prints goes to a log."""
    config = recipe.model_config(dataset, variant)
    examples = BlendedDataset(dataset, recipe.blended_config(config, seed), split)
    training = recipe.training_config(variant, seed)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with (folder / "training.log").open("a") as log, redirect_stdout(log):
        train(examples, config, training, folder, make_model=variant.make_model)
    seconds = round(time.perf_counter() - began, 1)
    # A run that only found its finished checkpoint keeps the time that training once took.
    if not (folder / SECONDS).exists():
        (folder / SECONDS).write_text(f"{seconds}\n")
    return seconds


def _one_thread() -> None:
    torch.set_num_threads(1)


def mean_areas(areas: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """Means over seeds of estimates and of their intervals' ends."""
    return {
        name: Estimate(
            *(float(np.mean([getattr(area[name], end) for area in areas])) for end in ("mean", "low", "high"))
        )
        for name in areas[0]
    }


def forward_flops(model: UnifiedRecommender) -> int:
    """Floating point operations of one full history and slate, as PyTorch counts matrix products."""
    config = model.config
    events = torch.zeros(1, config.max_history, dtype=torch.long)
    slate = torch.zeros(1, config.max_candidates, dtype=torch.long)
    zero = torch.zeros(1, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        reading = model.read(model.embedder(events), events, events, events, events > 0)
        model.score_padded(model.embedder(slate), zero, zero, reading.past_L2BHTD, zero + config.max_history)
    return int(counter.get_total_flops())


def losses(folder: Path) -> dict[str, tuple[tuple[int, float], ...]]:
    """Training curves that `train` wrote for TensorBoard."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        tag.removeprefix("loss/"): tuple((scalar.step, scalar.value) for scalar in events.Scalars(tag))
        for tag in events.Tags()["scalars"]
    }
