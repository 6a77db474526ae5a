"""Trains every variant of a recipe with every seed, and measures all of them on the same held-out data."""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from rich.progress import Progress
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

from experiments.conditioning import OutcomeConditioning
from experiments.held_out import HeldOut, Measured
from experiments.multi_token import MultiToken
from experiments.recipes import Recipe
from experiments.report import Difference, EvaluationReport, Machine, Row, Section
from experiments.scores import Values, mean_values
from experiments.section import Run
from experiments.trial import Trial
from experiments.variants import MULTI_TOKEN, UNIFIED, Variant
from unipinrec.data.interactions import InteractionDataset
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.models.common.history_model import HistoryModel
from unipinrec.models.common.joint_model import JointModel
from unipinrec.models.common.tokens import Events
from unipinrec.simulator.truth import Truth
from unipinrec.training.checkpoint import load_model, load_offline

Report = Callable[[str], None]
Found = TypeVar("Found")


class Runner:
    """One recipe on one dataset. Checkpoints are kept, so that a run that stops goes on where it was."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: InteractionDataset,
        folder: Path,
        report: Report,
        truth: Truth | None = None,
    ) -> None:
        self._recipe = recipe
        self._held_out = HeldOut(recipe, dataset, truth)
        self._folder = folder
        self._report_line = report
        self._values: dict[str, dict[str, Values]] = {}

    def run(self, workers: int) -> EvaluationReport:
        """Train and measure; takes as long as the recipe's budget says.

        One thread for each model: small ones gain little from more.
        """
        began = time.perf_counter()
        trials = [
            self._trial(variant, seed)
            for variant in self._recipe.variants
            for seed in self._recipe.seeds_of(variant)
        ]
        resumed = any(trial.folder.exists() for trial in trials)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool, Progress() as bar:
            measured = self._measure_all(trials, pool, bar)
            sections = self._sections(pool, bar)
        rows = [self._trained_row(variant, measured) for variant in self._recipe.variants]
        for (name, what), found in self._held_out.baselines().items():
            self._values[name] = found.metrics
            metrics = {metric: values.estimate() for metric, values in found.metrics.items()}
            rows.append(Row(model=name, what=what, metrics=metrics | found.areas))
        dataset = self._held_out.dataset
        return EvaluationReport(
            dataset=self._recipe.dataset,
            synthetic=self._recipe.synthetic,
            protocol=self._recipe.protocol,
            users=len(dataset.user_ids_U),
            items=len(dataset.item_ids_V),
            minutes=None if resumed else round((time.perf_counter() - began) / 60, 2),
            machine=Machine.here(),
            rows=tuple(rows),
            differences=tuple(self._differences(rows[0].model, [row.model for row in rows[1:]])),
            sections=tuple(sections),
        )

    def _trial(self, variant: Variant, seed: int) -> Trial:
        folder = self._folder / "training" / f"{variant.name}-{seed}"
        return Trial(recipe=self._recipe, variant=variant, seed=seed, folder=folder)

    def _measure_all(
        self, trials: Sequence[Trial], pool: Executor, bar: Progress
    ) -> dict[str, list[Measured]]:
        """What every seed of every variant reached, by the variant's name."""
        futures = {trial.name: pool.submit(train_and_measure, trial, self._held_out) for trial in trials}

        def describe(name: str, found: Measured) -> str:
            return f"{name}: " + ", ".join(f"{metric} {mean:.4f}" for metric, mean in found.means().items())

        found = self._gather(futures, "training", bar, describe)
        by_variant: dict[str, list[Measured]] = {}
        for trial in trials:
            by_variant.setdefault(trial.variant.name, []).append(found[trial.name])
        return by_variant

    def _sections(self, pool: Executor, bar: Progress) -> list[Section]:
        """Further questions that the recipe's variants and dataset can answer."""
        held_out, names = self._held_out, {variant.name for variant in self._recipe.variants}
        if self._recipe.protocol != "future_feedviews":
            return []
        asked = []
        if held_out.truth is not None and UNIFIED.name in names:
            asked.append(
                (OutcomeConditioning(held_out.views, held_out.truth).question(), condition, [UNIFIED])
            )
        if {UNIFIED.name, MULTI_TOKEN.name} <= names:
            asked.append((MultiToken(held_out.views).question(), use_query_sets, [UNIFIED, MULTI_TOKEN]))
        futures = {
            f"{question.title}, seed {seed}": pool.submit(
                answer, [self._trial(variant, seed) for variant in variants], held_out
            )
            for question, answer, variants in asked
            for seed in self._recipe.seeds
        }
        found = self._gather(futures, "further questions", bar, lambda name, _: f"{name}: answered")
        return [
            question.section([found[f"{question.title}, seed {seed}"] for seed in self._recipe.seeds])
            for question, _, _ in asked
        ]

    def _gather(
        self,
        futures: Mapping[str, Future[Found]],
        task: str,
        bar: Progress,
        describe: Callable[[str, Found], str],
    ) -> dict[str, Found]:
        if not futures:
            return {}
        done = bar.add_task(task, total=len(futures))
        names = {future: name for name, future in futures.items()}
        for future in as_completed(names):
            self._report_line(describe(names[future], future.result()))
            bar.advance(done)
        return {name: future.result() for name, future in futures.items()}

    def _trained_row(self, variant: Variant, measured: Mapping[str, Sequence[Measured]]) -> Row:
        """Every seed of one variant."""
        runs = measured[variant.name]
        trials = [self._trial(variant, seed) for seed in self._recipe.seeds_of(variant)]
        model = load_model(trials[0].checkpoint)
        merged = {name: mean_values([run.metrics[name] for run in runs]) for name in runs[0].metrics}
        self._values[variant.name] = merged
        return Row(
            model=variant.name,
            what=variant.what,
            seeds=self._recipe.seeds_of(variant),
            settings={
                "p_mask": self._recipe.training_config(
                    self._held_out.dataset, variant, 0
                ).action_mask_probability,
                "layers": model.config.layers,
                "events": model.config.max_history,
            },
            parameters=sum(weight.numel() for weight in model.parameters()),
            training_seconds=tuple(trial.seconds for trial in trials),
            flops=forward_flops(model),
            metrics={name: values.estimate() for name, values in merged.items()}
            | mean_areas([run.areas for run in runs]),
            by_seed={name: tuple(run.means()[name] for run in runs) for name in runs[0].means()},
            losses=losses(trials[0].folder),
        )

    def _differences(self, first: str, others: Sequence[str]) -> list[Difference]:
        found = []
        for other in others:
            for metric, values in self._values[other].items():
                if metric in self._values[first]:
                    estimate = self._values[first][metric].minus(values)
                    found.append(Difference(a=first, b=other, metric=metric, estimate=estimate))
        return found


def train_and_measure(trial: Trial, held_out: HeldOut) -> Measured:
    """Run one trial, in a process of its own."""
    trial.train(held_out.dataset, held_out.split)
    return held_out.measure(trial.variant, load_offline(trial.checkpoint))


def condition(trials: Sequence[Trial], held_out: HeldOut) -> Run:
    """Return one seed's answers about outcome conditioning.

    Raises:
        ValueError: the dataset is not simulated.
    """
    if held_out.truth is None:
        raise ValueError(f"{held_out.recipe.dataset} has no truth; allowed: a simulated dataset")
    return OutcomeConditioning(held_out.views, held_out.truth).answers(load_offline(trials[0].checkpoint))


def use_query_sets(trials: Sequence[Trial], held_out: HeldOut) -> Run:
    """Return one seed's answers about several query embeddings."""
    recommenders = {trial.variant.name: load_offline(trial.checkpoint) for trial in trials}
    return MultiToken(held_out.views).answers(recommenders)


def mean_areas(areas: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """Return means over seeds of estimates and of their intervals' ends."""
    return {
        name: Estimate(
            *(float(np.mean([getattr(area[name], end) for area in areas])) for end in ("mean", "low", "high"))
        )
        for name in areas[0]
    }


def forward_flops(model: HistoryModel) -> int:
    """Return the floating point operations of one full history, and of a slate if the model ranks.

    They are those of matrix products, as PyTorch counts them.
    """
    config = model.config
    events = torch.zeros(1, config.max_history, dtype=torch.long)
    slate = torch.zeros(1, config.max_candidates, dtype=torch.long)
    zero = torch.zeros(1, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        reading = model.read(Events(model.embedder(events), events, events, events, events > 0))
        if isinstance(model, JointModel):
            length = zero + config.max_history
            model.score_padded(model.embedder(slate), zero, zero, reading.past_L2BHTD, length)
    return int(counter.get_total_flops())


def losses(folder: Path) -> dict[str, tuple[tuple[int, float], ...]]:
    """Return the training curves that `train` wrote for TensorBoard."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        tag.removeprefix("loss/"): tuple((scalar.step, scalar.value) for scalar in events.Scalars(tag))
        for tag in events.Tags()["scalars"]
    }
