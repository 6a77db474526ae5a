"""Trains rivals on the requests that the project's own models see, and measures them with the same code.

Shapes: C candidates, K seeds, A actions.
"""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np

from experiments.recipes import RECIPES
from experiments.report import Machine, Row
from experiments.rivals.budget import Budget
from experiments.rivals.examples import Examples
from experiments.rivals.report import Choice, RivalsReport
from experiments.rivals.tables import BUDGET, FINAL, SEARCH, read_scores, write_budget, write_tables
from experiments.scores import Measured, by_seed, ranking_scores, rates_scores
from unipinrec.arrays import Float32s
from unipinrec.data.interactions import FOREVER, InteractionDataset, split_at_time
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.models.config import sized
from unipinrec.models.transact.config import TransactConfig

MAIN = Path(__file__).with_name("rivals_main.py")
LIBRARY = "fuxictr 2.3.10"
CONDITIONS = (
    "one model for each rival and action; every item shown in training is an example, in every epoch",
    "inputs as the second ranker's: ids, attributes, content and actions of the latest 100 events, the same "
    "of the candidate, the surface, rates of user, item and attributes for every action as known at the "
    "request, how often each was shown, time since the last event, length of the history, clock and weekday, "
    "and counts of every action and of impressions by the second ranker's half-lives",
    "items shown once in training share an id with those never shown",
    "setting and number of epochs by AUC on the last part of the training time, then trained on all of it",
    "TransAct of 2 layers with its last output and the maximum, which is the library's default; without its "
    "window mask, which raises TypeError there; with actions, which its own loader does not give",
    "SIM takes the latest 9 of the 100 events and searches 20 of them",
)

Tell = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class RivalStudy:
    """What is compared, and where. Rivals whose scores are in `folder` are not trained again, nor
    settings tried again."""

    dataset: InteractionDataset
    validation_begin: int
    """Unix seconds: settings and epochs are chosen on the feedviews from here to `test_begin`."""
    test_begin: int
    feedviews_per_user: int
    """Most feedviews of a user that are measured."""
    half_lives_s: tuple[int, ...]
    """By which recent actions are counted, in seconds."""
    budget: Budget
    folder: Path
    """One for each dataset, times and budget."""
    synthetic: bool
    interpreter: Path = Path("build/oracles/bin/python")
    """Of `make oracles`."""

    @classmethod
    def of(cls, dataset: InteractionDataset, folder: Path) -> "RivalStudy":
        """Return what is compared on a dataset.

        Raises `ValueError` if nothing is on this one.
        """
        name = dataset.info.name
        if name == "kuairand":
            # Of few profile entries, models learn slowly.
            budget = Budget(actions=("click", "long_view", "profile_enter"), epochs=20, patience=2)
        elif name == "simulator":
            budget = Budget(actions=("click",))
        else:
            raise ValueError(f"dataset is {name}; allowed: kuairand, simulator")
        recipe = RECIPES[name]
        validation, test = replace(recipe, validates=True).test_time(dataset)
        ours = sized(TransactConfig, "demo", dataset.catalogue_fields | recipe.second.model)
        return cls(
            dataset=dataset,
            validation_begin=validation,
            test_begin=test,
            feedviews_per_user=recipe.feedviews_per_user,
            half_lives_s=ours.half_lives_s,
            budget=budget,
            folder=folder,
            synthetic=recipe.synthetic,
        )

    def run(self, tell: Tell) -> RivalsReport:
        """Train every rival for every action, and return what was found.

        Raises `FileNotFoundError` if the interpreter is missing, `RuntimeError` if a rival's process fails.
        """
        if not self.interpreter.exists():
            raise FileNotFoundError(f"{self.interpreter} is missing; see `make oracles`")
        began, resumed = time.perf_counter(), self.folder.exists()
        self.write()
        for action, rival in product(self.budget.actions, self.budget.rivals):
            if not self._scores(rival, action).with_suffix(".npz").exists():
                self._train(rival, action, tell)
        found = {rival: self._rival(rival) for rival in self.budget.rivals}
        split = split_at_time(self.dataset, self.test_begin)
        counted = self._measured(rates_scores(self._views, split)).estimates()
        return RivalsReport(
            dataset=self.dataset.info.name,
            synthetic=self.synthetic,
            protocol="future_feedviews",
            users=len(self.dataset.user_ids_U),
            items=len(self.dataset.item_ids_V),
            minutes=None if resumed else round((time.perf_counter() - began) / 60, 1),
            machine=Machine.here(),
            rows=(
                *(row for row, _ in found.values()),
                Row(model="rates", what="smoothed user rate x item rate", metrics=counted),
            ),
            library=LIBRARY,
            conditions=CONDITIONS,
            validation_begin=self.validation_begin,
            test_begin=self.test_begin,
            budget=self.budget,
            choices=tuple(choice for _, choices in found.values() for choice in choices),
        )

    def write(self) -> None:
        """Write what the rivals' processes read. Those of the test feedviews get no labels."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_budget(self.folder / BUDGET, self.budget, self.dataset.info.actions)
        validation = self._between(self.validation_begin, self.test_begin)
        for name, views, begin in (
            (SEARCH, validation, self.validation_begin),
            (FINAL, self._views, self.test_begin),
        ):
            fitted, judged = Examples.before(views, begin, self.half_lives_s)
            write_tables(self.folder / name, self.dataset, fitted, judged, labels=name == SEARCH)

    @cached_property
    def _views(self) -> FutureFeedviews:
        return self._between(self.test_begin, FOREVER)

    def _between(self, begin: int, end: int) -> FutureFeedviews:
        split = split_at_time(self.dataset, begin)
        return FutureFeedviews.of(self.dataset, split, self.feedviews_per_user, end)

    def _scores(self, rival: str, action: str) -> Path:
        return self.folder / f"{rival}-{action}"

    def _train(self, rival: str, action: str, tell: Tell) -> None:
        # Relative paths of the interpreter are those of the folder that the command runs in.
        command = (self.interpreter.absolute(), "-W", "ignore", MAIN, self.folder, rival, action)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                tell(line.rstrip())
        if process.returncode:
            raise RuntimeError(f"{MAIN} ended with code {process.returncode}")

    def _rival(self, rival: str) -> tuple[Row, tuple[Choice, ...]]:
        """Return one rival's row, and what was chosen for every action."""
        actions = self.dataset.info.actions
        score_KCA = np.zeros((len(self.budget.seeds), *self._views.labels.shape), np.float32)
        choices = []
        for action in self.budget.actions:
            score_KC, trained = read_scores(self._scores(rival, action), *score_KCA.shape[:2])
            score_KCA[:, :, actions.index(action)] = score_KC
            choices.append(Choice(rival=rival, action=action, trained=trained))
        runs = [self._measured(score_CA) for score_CA in score_KCA]
        row = Row(
            model=rival,
            what=f"{LIBRARY}, a model for each action",
            seeds=self.budget.seeds,
            training_seconds=tuple(np.sum([choice.trained.seconds for choice in choices], axis=0).tolist()),
            metrics=Measured.mean(runs).estimates(),
            by_seed=by_seed(runs),
        )
        return row, tuple(choices)

    def _measured(self, score_CA: Float32s) -> Measured:
        """Return AUC and gAUC of the actions that rivals are trained for."""
        areas = ranking_scores(self._views, score_CA).areas
        kept = {name: area for name, area in areas.items() if name.split()[-1] in self.budget.actions}
        return Measured({}, kept)
