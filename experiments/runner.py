"""Trains every variant of a recipe with every seed, and measures all of them on the same held-out data."""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from rich.progress import Progress
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

from experiments.conditioning import OutcomeConditioning
from experiments.end_to_end import EndToEnd
from experiments.held_out import HeldOut
from experiments.multi_token import MultiToken
from experiments.rankers import RankersCompared, is_second_ranker
from experiments.recipes import Recipe
from experiments.report import Difference, EvaluationReport, Machine, Row, Section
from experiments.scores import Measured, by_seed
from experiments.section import Question, Run
from experiments.served_order import ServedOrder
from experiments.variants import UNIFIED, Variant
from unipinrec.data.blended import BlendedDataset
from unipinrec.data.interactions import InteractionDataset, Split
from unipinrec.models.common.history_model import HistoryModel, JointModel, Shown
from unipinrec.models.common.tokens import Events
from unipinrec.models.config import CatalogueConfig, ModelConfig, RetrievalTraining
from unipinrec.models.registry import find_model
from unipinrec.models.spec import Examples
from unipinrec.models.transact.config import SecondRankerConfig
from unipinrec.models.transact.examples import SlateExamples
from unipinrec.simulator.truth import Truth
from unipinrec.training.checkpoint import latest_checkpoint, load_item_vectors, load_model, load_offline
from unipinrec.training.trainer import train

Report = Callable[[str], None]
Found = TypeVar("Found")
SECONDS = "seconds.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One variant with one seed, kept in `folder`; what is finished is not trained again."""

    recipe: Recipe
    variant: Variant
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Return a name for lines of progress."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def seconds(self) -> float:
        """Return what training took."""
        return float((self.folder / SECONDS).read_text())

    def train(self, dataset: InteractionDataset, split: Split) -> None:
        """Train in this process; what training prints goes to a log."""
        config = self.recipe.model_config(dataset, self.variant)
        examples = self._examples(dataset, config, split)
        training = self.recipe.training_config(dataset, self.variant, self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with (self.folder / "training.log").open("a") as log, redirect_stdout(log):
            train(find_model(self.variant.spec), examples, config, training, self.folder)
        # A run that only found its finished checkpoint keeps the time that training once took.
        if not (self.folder / SECONDS).exists():
            (self.folder / SECONDS).write_text(f"{time.perf_counter() - began:.1f}\n")

    @property
    def source(self) -> "Trial | None":
        """Return whose vectors this reads, which is trained before it."""
        if self.variant.vectors is None:
            return None
        folder = trial_folder(self.folder.parent, self.variant.vectors, self.seed)
        return replace(self, variant=self.variant.vectors, folder=folder)

    def _examples(self, dataset: InteractionDataset, config: CatalogueConfig, split: Split) -> Examples:
        if isinstance(config, ModelConfig):
            return BlendedDataset(dataset, self.recipe.blended_config(config, self.seed), split)
        slates = self.recipe.slate_config(self.seed)
        if isinstance(config, SecondRankerConfig):
            given = None if self.source is None else load_item_vectors(self.source.checkpoint, dataset)
            return SlateExamples(dataset, config, slates, split, vector_VE=given)
        raise ValueError(f"variant is {self.variant.name}; allowed: models that rank or retrieve")

    @property
    def checkpoint(self) -> Path:
        """Return what training left. Raises `FileNotFoundError` if it was not trained yet."""
        found = latest_checkpoint(self.folder)
        if found is None:
            raise FileNotFoundError(f"{self.folder} holds no checkpoint")
        return found


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

    def run(self, workers: int) -> EvaluationReport:
        """Train and measure; takes as long as the recipe's budget says.

        One thread for each model: small ones gain little from more.
        """
        began, recipe, held_out = time.perf_counter(), self._recipe, self._held_out
        trials = {
            variant.name: [self._trial(variant, seed) for seed in recipe.seeds_of(variant)]
            for variant in recipe.variants
        }
        every = [trial for trials_of in trials.values() for trial in trials_of]
        resumed = any(trial.folder.exists() for trial in every)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool, Progress() as bar:
            measured = self._measured(every, pool, bar)
            sections = self._sections(pool, bar)
        found, rows = {}, []
        for variant in recipe.variants:
            runs = [measured[trial.name] for trial in trials[variant.name]]
            found[variant.name] = Measured.mean(runs)
            rows.append(self._trained_row(variant, trials[variant.name], found[variant.name], by_seed(runs)))
        for (name, what), counted in held_out.baselines().items():
            found[name] = counted
            rows.append(Row(model=name, what=what, metrics=counted.estimates(), totals=counted.totals))
        first, *others = found
        differences = [
            Difference(a=first, b=other, metric=name, estimate=found[first].metrics[name].minus(values))
            for other in others
            for name, values in found[other].metrics.items()
            if name in found[first].metrics
        ]
        return EvaluationReport(
            dataset=recipe.dataset,
            synthetic=recipe.synthetic,
            protocol=recipe.protocol,
            users=len(held_out.dataset.user_ids_U),
            items=len(held_out.dataset.item_ids_V),
            minutes=None if resumed else round((time.perf_counter() - began) / 60, 2),
            machine=Machine.here(),
            rows=tuple(rows),
            differences=tuple(differences),
            sections=tuple(sections),
        )

    def _trial(self, variant: Variant, seed: int) -> Trial:
        folder = trial_folder(self._folder / "training", variant, seed)
        return Trial(recipe=self._recipe, variant=variant, seed=seed, folder=folder)

    def _measured(self, every: Sequence[Trial], pool: Executor, bar: Progress) -> dict[str, Measured]:
        """Of each trial, and of those whose vectors others read, which are trained before these."""
        sources = [trial.source for trial in every if trial.source]
        before = {trial.name: trial for trial in (*every, *sources) if not trial.source}
        after = {trial.name: trial for trial in every if trial.source}
        measured: dict[str, Measured] = {}
        for wave in (before, after):
            futures = {
                name: pool.submit(train_and_measure, trial, self._held_out) for name, trial in wave.items()
            }
            measured |= self._gather(futures, "training", bar, _described)
        return measured

    def _sections(self, pool: Executor, bar: Progress) -> list[Section]:
        asked = self._questions()
        futures = {
            f"{question.title}, seed {seed}": pool.submit(
                answer, question, [self._trial(variant, seed) for variant in question.variants]
            )
            for question in asked
            for seed in self._recipe.seeds
        }
        found = self._gather(futures, "further questions", bar, lambda name, _: f"{name}: answered")
        return [
            question.section([found[f"{question.title}, seed {seed}"] for seed in self._recipe.seeds])
            for question in asked
        ]

    def _questions(self) -> list[Question]:
        """Further questions that the recipe's variants and dataset can answer."""
        held_out, names = self._held_out, {variant.name for variant in self._recipe.variants}
        if self._recipe.protocol == "leave_one_out":
            unified = UNIFIED.name in names
            return [ServedOrder(held_out.dataset, held_out.split)] if unified else []
        asked: list[Question] = []
        if held_out.truth is not None and UNIFIED.name in names:
            asked.append(OutcomeConditioning(held_out.views, held_out.truth))
        if {variant.name for variant in MultiToken.variants} <= names:
            asked.append(MultiToken(held_out.views))
        if any(variant.ranks for variant in self._recipe.variants):
            asked.append(RankersCompared(held_out, self._recipe.variants))
        second = [variant for variant in self._recipe.variants if is_second_ranker(variant)]
        if second and held_out.truth is not None and UNIFIED.name in names:
            asked.append(EndToEnd(held_out.views, held_out.truth, second))
        return asked

    def _gather(
        self,
        futures: Mapping[str, Future[Found]],
        task: str,
        bar: Progress,
        describe: Callable[[str, Found], str],
    ) -> dict[str, Found]:
        names = {future: name for name, future in futures.items()}
        for future in bar.track(as_completed(names), len(names), description=task) if names else ():
            self._report_line(describe(names[future], future.result()))
        return {name: future.result() for name, future in futures.items()}

    def _trained_row(
        self,
        variant: Variant,
        trials: Sequence[Trial],
        found: Measured,
        means: Mapping[str, tuple[float, ...]],
    ) -> Row:
        """Every seed of one variant."""
        model = load_model(trials[0].checkpoint)
        training = self._recipe.training_config(self._held_out.dataset, variant, 0)
        return Row(
            model=variant.name,
            what=variant.what,
            seeds=self._recipe.seeds_of(variant),
            settings={
                "p_mask": training.action_mask_probability,
                "layers": model.config.layers,
                "events": model.config.max_history,
            }
            if isinstance(training, RetrievalTraining)
            else {"events": model.config.max_events},
            parameters=sum(weight.numel() for weight in model.parameters()),
            training_seconds=tuple(trial.seconds for trial in trials),
            flops=forward_flops(model) if isinstance(model, HistoryModel) else 0,
            metrics=found.estimates(),
            totals=found.totals,
            by_seed=means,
            losses=losses(trials[0].folder),
        )


def trial_folder(folder: Path, variant: Variant, seed: int) -> Path:
    """Return where one training of several in a folder is kept."""
    return folder / f"{variant.name}-{seed}"


def _described(name: str, found: Measured) -> str:
    return f"{name}: " + ", ".join(f"{metric} {mean:.4f}" for metric, mean in found.means().items())


def train_and_measure(trial: Trial, held_out: HeldOut) -> Measured:
    """Run one trial, in a process of its own."""
    trial.train(held_out.dataset, held_out.split)
    return held_out.measure(trial.variant, load_offline(trial.checkpoint))


def answer(question: Question, trials: Sequence[Trial]) -> Run:
    """Return what one seed's models answer."""
    return question.answers({trial.variant.name: load_offline(trial.checkpoint) for trial in trials})


def forward_flops(model: HistoryModel) -> int:
    """Return the floating point operations of one full history, and of a slate if the model ranks.

    They are those of matrix products, as PyTorch counts them.
    """
    config = model.config
    events = torch.zeros(1, config.max_history, dtype=torch.long)
    slate = torch.zeros(1, config.max_candidates, dtype=torch.long)
    zero = torch.zeros(1, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        read = Events(model.embedder(events), events, events, events, events > 0)
        reading = model.read(read)
        if isinstance(model, JointModel):
            rates = model.ranking_head.item_rates(slate)
            length = zero[None] + config.max_history
            shown = Shown(model.embedder(slate), rates, slate, zero[None], zero[None], length)
            model.score_padded(shown, read, reading)
    return int(counter.get_total_flops())


def losses(folder: Path) -> dict[str, tuple[tuple[int, float], ...]]:
    """Return the training curves that `train` wrote for TensorBoard."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        tag.removeprefix("loss/"): tuple((scalar.step, scalar.value) for scalar in events.Scalars(tag))
        for tag in events.Tags()["scalars"]
    }
