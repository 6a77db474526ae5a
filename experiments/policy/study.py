"""Compares the learned policy with static weights, other learners and an exact oracle, in several worlds.

Shapes: R requests of an evaluation, S different states of them, K arms, M rewards, A alphas, X policies of a
family, C users.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from experiments.policy.judging import POLICY, SAME_WEIGHTS, STATICS, Judging, pairs
from experiments.policy.learned import HIDDEN, WHOLE, Learned, learn
from experiments.policy.measures import arms_at
from experiments.policy.peers import choices_of_peers
from experiments.policy.report import Family, PolicyStudyReport, SeedReport
from experiments.policy.world import PolicyWorld, WorldConfig
from experiments.report import Machine
from unipinrec.arrays import Float64s, Int64s
from unipinrec.data.arms import Arms
from unipinrec.models.policy.config import PolicyTraining
from unipinrec.models.policy.sweep import ALPHAS
from unipinrec.simulator.exploration_config import SAVE_AND_SHARE

SETTINGS = "settings.txt"
PEERS = "Vowpal Wabbit and obp's learners"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStudy:
    """What is compared, and where; seeds that are finished in `folder` are not run again."""

    world: WorldConfig = field(default_factory=WorldConfig)
    training: PolicyTraining = field(default_factory=PolicyTraining)
    seeds: tuple[int, ...] = (0, 1, 2)
    partial_seeds: tuple[int, ...] = (0,)
    """Worlds in which policies that see parts of the state are trained too."""
    folder: Path = Path("build/eval/policy")
    oracles: Path = Path("build/oracles/bin/python")
    """Interpreter of `make oracles`. Where it is missing, the learners that need it are left out."""
    quick: bool = False

    def run(self, workers: int, report: Report) -> PolicyStudyReport:
        """Run the seeds, with several workers each in a process of its own and with one thread, and return
        what was found."""
        began = time.perf_counter()
        skipped = (
            () if self.oracles.exists() else (f"{PEERS}: {self.oracles} is missing, see `make oracles`",)
        )
        for line in skipped:
            report(f"LEFT OUT: {line}")
        self._check_folder()
        resumed = any(self._seed_folder(seed).exists() for seed in self.seeds)
        found = {}
        for seed, of_seed in self._reports(workers):
            found[seed] = of_seed
            report(_told(of_seed))
        return PolicyStudyReport(
            quick=self.quick,
            world=self.world,
            training=self.training,
            alphas=tuple(ALPHAS.tolist()),
            rewards=tuple(chosen.action for chosen in SAVE_AND_SHARE.varied),
            seeds=tuple(found[seed] for seed in self.seeds),
            skipped=skipped,
            machine=Machine.here(),
            minutes=None if resumed else round((time.perf_counter() - began) / 60, 1),
        )

    def _check_folder(self) -> None:
        """Raise `ValueError` if the folder has worlds of other settings."""
        settings = f"{self.world.model_dump_json()}\n{self.training.model_dump_json()}\n"
        kept = self.folder / SETTINGS
        if kept.exists() and kept.read_text() != settings:
            raise ValueError(f"folder {self.folder} has worlds of other settings; allowed: another, or none")
        self.folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(settings)

    def _reports(self, workers: int) -> Iterator[tuple[int, SeedReport]]:
        """Yield every seed's report when it is there."""
        if workers == 1:
            yield from ((seed, self.run_seed(seed)) for seed in self.seeds)
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool, Progress() as bar:
            futures = {pool.submit(self.run_seed, seed): seed for seed in self.seeds}
            for future in bar.track(as_completed(futures), len(futures), description="worlds"):
                yield futures[future], future.result()

    def run_seed(self, seed: int) -> SeedReport:
        """Return one world's report, made or read."""
        folder = self._seed_folder(seed)
        written = folder / "report.json"
        if written.exists():
            return SeedReport.model_validate_json(written.read_text())
        tell = partial(print, f"seed {seed}:", flush=True)
        with Progress(disable=True) as progress:
            world = PolicyWorld.prepare(folder, self.world, seed, progress)
            learn_from, judge_by = len(world.training), len(world.evaluation)
            tell(f"{learn_from:,} explored requests to learn from, {judge_by:,} to judge by")
            learned = self._learned(world, folder, seed, tell)
            value_RKM = learned[WHOLE].value_SKM[world.state_rows]
            arm_XR = {POLICY: arms_at(value_RKM, ALPHAS)}
            peers = choices_of_peers(world, self.oracles, folder, tell) if self.oracles.exists() else {}
            arm_XR |= {name: choices.arm_AS[:, world.state_rows] for name, choices in peers.items()}
            same = world.expected_of(mean_weights(world.arms, arm_XR[POLICY]), progress)
        judging = Judging(world, value_RKM, arm_XR, {SAME_WEIGHTS: same})
        seconds = {name: choices.seconds for name, choices in peers.items()}
        report = SeedReport(
            seed=seed,
            training_requests=learn_from,
            training_users=len(set(world.training.user_id_R)),
            evaluation_requests=judge_by,
            evaluation_users=len(set(world.evaluation.user_id_R)),
            production=tuple(judging.production_M),
            reference=tuple(judging.reference_M),
            oracle=pairs(judging.oracle_AM),
            families=judging.families({POLICY: learned[WHOLE].seconds, **seconds}),
            predicted={each: pairs(lift_A2) for each, lift_A2 in judging.predicted.items()},
            true_lifts=pairs(judging.true_lifts),
            predictions=judging.predictions(),
            comparisons=judging.comparisons(),
            groups=judging.groups(),
            partial=_of_parts(world, learned),
        )
        unfinished = written.with_suffix(".partial")
        unfinished.write_text(report.model_dump_json(indent=1) + "\n")
        unfinished.rename(written)
        return report

    def _learned(
        self, world: PolicyWorld, folder: Path, seed: int, tell: Callable[[str], None]
    ) -> dict[str, Learned]:
        """Train the policy, and in some worlds those that see parts of the state."""
        settings = self.training.model_copy(update={"seed": seed})
        found = {}
        for number, (name, hidden) in enumerate(HIDDEN.items()):
            if not hidden or seed in self.partial_seeds:
                out = folder / f"policy-{number}"
                found[name] = learn(world.interactions, world.training, world.states, settings, out, hidden)
                tell(f"policy of {name}: {found[name].seconds:.0f} s of processor")
        return found

    def _seed_folder(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"


def quick_study(folder: Path) -> PolicyStudy:
    """Return a dry run, too small to say anything."""
    world = WorldConfig(users=300, items=500, training_traffic=1, evaluation_traffic=2)
    training = PolicyTraining(epochs=1)
    return PolicyStudy(world=world, training=training, seeds=(0, 1), folder=folder, quick=True)


def mean_weights(arms: Arms, arm_XR: Int64s) -> Float64s:
    """Return the mean weight of every action in each policy's choices, [X, A]."""
    weight_KA = arms.weights()
    return np.stack([weight_KA[arm_R].mean(axis=0) for arm_R in arm_XR])


def _of_parts(world: PolicyWorld, learned: Mapping[str, Learned]) -> tuple[Family, ...]:
    if len(learned) < 2:
        return ()
    arm_XR = {name: arms_at(each.value_SKM[world.state_rows], ALPHAS) for name, each in learned.items()}
    judging = Judging(world, learned[WHOLE].value_SKM[world.state_rows], arm_XR, {})
    families = judging.families({name: each.seconds for name, each in learned.items()})
    return tuple(family for family in families if family.name != STATICS)


def _told(found: SeedReport) -> str:
    told = (
        f"{family.name} {family.hypervolume:.4f} ({family.regret_over_static:.3f})"
        for family in (*found.families, *found.partial)
    )
    return f"seed {found.seed}: hypervolume (regret over the best static arm's): {', '.join(told)}"
