"""Other learners on the same requests, in a process of the environment that has their libraries.

Shapes: S states to choose for, A alphas.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.policy.flat import flat_states
from experiments.policy.world import PolicyWorld
from unipinrec.arrays import Int64s
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.sweep import ALPHAS

MAIN = Path(__file__).with_name("peers_main.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What one learner chooses, and what it took."""

    arm_AS: Int64s
    seconds: float
    """Of the processor."""


def choices_of_peers(
    world: PolicyWorld, interpreter: Path, folder: Path, tell: Callable[[str], object]
) -> dict[str, Choices]:
    """Return what every learner chooses in the evaluation's states, by name: made, or read where `folder` has
    it from an earlier call.

    Raises `RuntimeError` if the other process fails.
    """
    states, choices = folder / "states.npz", folder / "choices.npz"
    if not choices.exists():
        _run(world, interpreter, states, choices, tell)
    found = np.load(choices)
    return {
        name: Choices(
            arm_AS=found[f"{name}/arm_AS"].astype(np.int64), seconds=float(found[f"{name}/seconds"])
        )
        for name in (key.removesuffix("/seconds") for key in found if key.endswith("/seconds"))
    }


def _run(
    world: PolicyWorld, interpreter: Path, states: Path, choices: Path, tell: Callable[[str], object]
) -> None:
    config = PolicyConfig(**world.interactions.catalogue_fields, arms=world.arms)
    np.savez(
        states,
        state_RX=flat_states(world.interactions, world.training, config),
        arm_R=world.training.arm_R,
        reward_RM=world.training.reward_RM,
        place_K2=world.arms.places(),
        alpha_A=ALPHAS,
        chosen_for_SX=flat_states(world.interactions, world.states, config),
    )
    # Relative paths of the interpreter are those of the folder that the command runs in.
    with subprocess.Popen(
        [interpreter.absolute(), "-W", "ignore", MAIN, states, choices], stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            tell(line.rstrip())
    if process.returncode:
        raise RuntimeError(f"{MAIN} ended with code {process.returncode}")
