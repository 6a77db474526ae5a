"""Trains the learners that a policy is compared with, in the environment of `make oracles`.

    python experiments/policy/peers_main.py STATES.npz CHOICES.npz

reads states, logged arms and rewards, and writes the arm that every learner chooses for each alpha, with the
processor's seconds. It stands alone: that environment has no unipinrec.

Shapes: R requests to learn from, S states to choose for, X numbers of a state, K arms, A alphas, M rewards.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from obp.policy import IPWLearner, QLearner
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from vowpalwabbit import Workspace

Array = NDArray[Any]

VW = "--quiet --cb_adf --cb_type mtr -q sa --ignore_linear s -b 18 --random_seed 1"
VW_TRAINING = "--passes 3 -k --learning_rate 0.05 --l2 1e-6"


def main(states: Path, choices: Path) -> None:
    """Train every learner and write what it chooses."""
    given = np.load(states)
    scaler = StandardScaler().fit(given["state_RX"])
    data = Data(
        state_RX=scaler.transform(given["state_RX"]),
        arm_R=given["arm_R"],
        reward_RM=given["reward_RM"],
        place_K2=given["place_K2"],
        alpha_A=given["alpha_A"],
        chosen_for_SX=scaler.transform(given["chosen_for_SX"]),
    )
    found = {}
    for name, learner in LEARNERS.items():
        began = time.process_time()
        found[f"{name}/arm_AS"] = learner(data).astype(np.int16)
        found[f"{name}/seconds"] = np.array(time.process_time() - began)
        print(f"{name}: {float(found[f'{name}/seconds']):.0f} s of processor", flush=True)
    np.savez(choices, **found)


class Data:
    """What is learned from, and chosen for."""

    def __init__(self, **arrays: Array) -> None:
        self.state_RX, self.arm_R, self.reward_RM = (arrays[k] for k in ("state_RX", "arm_R", "reward_RM"))
        self.place_K2, self.alpha_A = arrays["place_K2"], arrays["alpha_A"]
        self.chosen_for_SX = arrays["chosen_for_SX"]

    def reward_at(self, alpha: float) -> Array:
        """Return the reward that a policy of one alpha maximises, [R]."""
        return alpha * self.reward_RM[:, 1] + (1 - alpha) * self.reward_RM[:, 0]


def vowpal_wabbit(data: Data) -> Array:
    """Return the arms that Vowpal Wabbit chooses, [A, S]: one model for each alpha, linear in products of a
    state's numbers and an arm's.

    `mtr` learns from the logged arm's line alone, and all arms were equally likely, so that the other arms'
    lines change nothing and are left out of training.
    """
    arms = [
        f"|a one x:{x:.4f} y:{y:.4f} xx:{x * x:.4f} yy:{y * y:.4f} xy:{x * y:.4f} "
        f"rx:{x**0.5:.4f} ry:{y**0.5:.4f} rxy:{(x * y) ** 0.5:.4f}"
        for x, y in data.place_K2
    ]
    learned, chosen_for = (_lines(state_X) for state_X in (data.state_RX, data.chosen_for_SX))
    found = []
    with TemporaryDirectory() as folder:
        table, test, model, answers = (f"{folder}/{name}" for name in ("train", "test", "model", "answers"))
        every_arm = "\n".join(arms)
        Path(test).write_text("".join(f"{line}\n{every_arm}\n\n" for line in chosen_for))
        for alpha in data.alpha_A:
            rows = zip(learned, data.reward_at(alpha), data.arm_R, strict=True)
            Path(table).write_text("".join(f"{line}\n0:{-r:.6f}:1 {arms[arm]}\n\n" for line, r, arm in rows))
            _vw(f"{VW} {VW_TRAINING} --cache_file {table}.cache -d {table} -f {model}")
            _vw(f"--quiet -t -i {model} -d {test} --cache_file {test}.cache -p {answers}")
            Path(f"{table}.cache").unlink()
            found.append(np.array([int(line) for line in Path(answers).read_text().split()]))
    return np.stack(found)


def q_learner(data: Data) -> Array:
    """Return the arms that obp's QLearner chooses, [A, S]: gradient boosting of both rewards."""
    values = []
    for reward_R in data.reward_RM.T:
        learner = QLearner(n_actions=len(data.place_K2), base_model=_boosting())
        # Otherwise arms are told apart by their number alone.
        learner.q_estimator.action_context = data.place_K2
        learner.fit(context=data.state_RX, action=data.arm_R, reward=reward_R)
        values.append(learner.predict_score(data.chosen_for_SX)[:, :, 0])
    first_SK, second_SK = values
    return np.stack([(alpha * second_SK + (1 - alpha) * first_SK).argmax(axis=1) for alpha in data.alpha_A])


def ipw_learner(data: Data) -> Array:
    """Return the arms that obp's IPWLearner chooses, [A, S]: weighted logistic regression for each alpha."""
    found = []
    for alpha in data.alpha_A:
        classifier = LogisticRegression(C=1e-6, max_iter=20)
        learner = IPWLearner(n_actions=len(data.place_K2), base_classifier=classifier)
        learner.fit(
            context=data.state_RX,
            action=data.arm_R,
            reward=data.reward_at(alpha),
            pscore=np.full(len(data.arm_R), 1 / len(data.place_K2)),
        )
        found.append(learner.predict(data.chosen_for_SX)[:, :, 0].argmax(axis=1))
    return np.stack(found)


LEARNERS = {"Vowpal Wabbit": vowpal_wabbit, "obp QLearner": q_learner, "obp IPWLearner": ipw_learner}


def _boosting() -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(max_iter=250, learning_rate=0.1, min_samples_leaf=200)


def _lines(state_X: Array) -> list[str]:
    form = "shared |s " + " ".join(f"{number}:%.3g" for number in range(state_X.shape[1]))
    return [form % tuple(row) for row in state_X.tolist()]


def _vw(arguments: str) -> None:
    Workspace(arg_list=arguments.split()).finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
