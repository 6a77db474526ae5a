"""Trains one ranker of FuxiCTR for one action, in the environment of `make oracles`.

    python experiments/rivals/rivals_main.py FOLDER RIVAL ACTION

reads search.npz, final.npz and budget.json of the folder, tries every setting of the budget on the first, and
trains the best one on the second with every seed. RIVAL-ACTION.npz gets the scores, RIVAL-ACTION.json what
was tried. It stands alone: that environment has no unipinrec.

Shapes: R requests, N events of all requests, C candidates, B candidates of a step, L the longest sequence of
them, T = L + 1 with the candidate, X numbers of a candidate, V items, Y most attributes of an item, F content
width, A actions, K seeds.
"""

import json
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR import DIN, SIM, TransAct
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

Array = NDArray[Any]
Batch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]
Setting = dict[str, Any]

LABEL = "label"
FEWEST_EVENTS = 10
"""Shorter sequences are padded to it: SIM fails on fewer than its latest ones."""
ROWS = 1024
"""Candidates scored at once."""
LENGTH_NOISE = 8
"""Events by which a length is misjudged when steps are made, so that they differ between epochs."""
ITEM = ("item", "attributes", "actions", "content")
"""What is known of every item of a sequence, and of the candidate."""

RIVALS: dict[str, tuple[Any, Setting]] = {
    # The transformer of arXiv 2306.00248 §3. Its window mask, off by default, raises TypeError.
    "TransAct": (
        TransAct,
        {"transformer_layers": 2, "dim_feedforward": 32, "dcn_hidden_units": [256, 128]},
    ),
    "DIN": (DIN, {"dnn_hidden_units": [256, 128]}),
    "SIM": (
        SIM,
        {"dnn_hidden_units": [256, 128], "num_heads": 2, "short_seq_len": FEWEST_EVENTS, "topk": 20},
    ),
}
"""Models, and where they differ from the library's defaults."""


class Table:
    """One file: a catalogue, examples to learn from, and others to score."""

    def __init__(self, path: Path, action: int) -> None:
        self._file = dict(np.load(path))
        self.fitted, self.judged = self._part("fitted"), self._part("judged")
        mean_X, deviation_X = self.fitted["number_CX"].mean(axis=0), self.fitted["number_CX"].std(axis=0)
        for part in (self.fitted, self.judged):
            part["number_CX"] = (part["number_CX"] - mean_X) / np.maximum(deviation_X, 1e-6)
            part["length_R"] = np.diff(part["event_offset_R1"])
            if "label_CA" in part:
                part["label_C"] = part["label_CA"][:, action].astype(np.float32)
        # The last row of each is padding.
        self._number_V = np.append(self._file["item_number_V"], 0)
        self._attributes_VY = np.pad(self._file["attributes_VX"] + 1, ((0, 1), (0, 0)))
        self._content_VF = np.pad(self._file["content_VF"], ((0, 1), (0, 0)))
        self._bit_A = np.arange(self._file["fitted/label_CA"].shape[1])

    def _part(self, name: str) -> dict[str, Array]:
        return {key.split("/")[1]: self._file[key] for key in self._file if key.startswith(f"{name}/")}

    def feature_map(self, dim: int, folder: Path) -> FeatureMap:
        """Return what FuxiCTR must know of the inputs: one dense vector of numbers, the surface, and of each
        item its id, its attributes' mean, its content, and the actions on it."""
        mean = {"type": "sequence", "feature_encoder": "layers.MaskedAveragePooling()", "padding_idx": 0}
        numbers = self.fitted["number_CX"].shape[1]
        features: dict[str, dict[str, Any]] = {
            "numbers": {"type": "embedding", "pretrain_dim": numbers, "embedding_dim": numbers}
            | {"feature_encoder": "nn.Identity()"},
            "surface": {"type": "categorical", "vocab_size": int(self._file["surfaces"])},
            "item": {"type": "categorical", "vocab_size": int(self._number_V.max()) + 1, "padding_idx": 0},
            "attributes": mean | {"vocab_size": int(self._attributes_VY.max()) + 1},
            "actions": mean | {"vocab_size": len(self._bit_A) + 1},
            "content": {"type": "embedding", "pretrain_dim": self._content_VF.shape[1]},
        }
        width = {"attributes": self._attributes_VY.shape[1], "content": self._content_VF.shape[1]}
        made = FeatureMap("requests", str(folder))
        made.features = OrderedDict(
            (name, {"embedding_dim": dim, "source": "item" if name in ITEM else "request"} | spec)
            for name, spec in features.items()
            if width.get(name, 1)
        )
        made.labels, made.default_emb_dim = [LABEL], dim
        made.num_fields = made.get_num_fields()
        return made

    def batch(self, part: dict[str, Array], row_B: Array) -> Batch:
        """Return some candidates as FuxiCTR's models for sequences take them: (numbers, items, mask).

        Sequences are padded at the left; the candidate is behind them, with no actions.
        """
        request_B, end_B = part["request_C"][row_B], part["event_offset_R1"][part["request_C"][row_B] + 1]
        length_B = part["length_R"][request_B]
        longest = max(int(length_B.max()), FEWEST_EVENTS)
        valid_BL = np.arange(longest, 0, -1) <= length_B[:, None]
        index_BL = np.where(valid_BL, end_B[:, None] - np.arange(longest, 0, -1), 0)
        item_BL, actions_BL = (
            np.where(valid_BL, part[name][index_BL] if len(part[name]) else empty, empty)
            for name, empty in (("event_item_N", -1), ("event_actions_N", 0))
        )
        item_Z = np.column_stack([item_BL, part["item_C"][row_B]]).ravel()
        actions_Z = np.column_stack([actions_BL, np.zeros_like(row_B)]).ravel()
        items = {
            "item": self._number_V[item_Z],
            "attributes": self._attributes_VY[item_Z],
            "actions": (actions_Z[:, None] >> self._bit_A & 1) * (self._bit_A + 1),
            "content": self._content_VF[item_Z],
        }
        given = {"numbers": part["number_CX"][row_B], "surface": part["surface_R"][request_B]}
        if "label_C" in part:
            given[LABEL] = part["label_C"][row_B]
        return (
            {name: torch.from_numpy(array) for name, array in given.items()},
            {name: torch.from_numpy(array) for name, array in items.items() if array.size},
            torch.from_numpy(valid_BL.astype(np.float32)),
        )


class Learner:
    """One model of FuxiCTR, trained epoch by epoch."""

    def __init__(self, rival: str, table: Table, setting: Setting, seed: int, folder: Path) -> None:
        seed_everything(seed)
        self._table, self._draw = table, np.random.default_rng(seed)
        kind, sizes = RIVALS[rival]
        self.model = kind(
            table.feature_map(setting["embedding_dim"], folder),
            **sizes,
            embedding_dim=setting["embedding_dim"],
            learning_rate=setting["learning_rate"],
            embedding_regularizer=setting["regularisation"]["embedding_l2"],
            net_regularizer=setting["regularisation"]["net_l2"],
            net_dropout=setting["regularisation"]["dropout"],
            optimizer="adam",
            loss="binary_crossentropy",
            metrics=["AUC"],
            model_root=str(folder),
            verbose=0,
        )
        # What `fit` sets, which trains without pause; here epochs are chosen.
        self.model._max_gradient_norm = 10.0

    def train_epoch(self, batch_size: int) -> None:
        """Pass over the examples once, in a random order."""
        self.model.train()
        length_C = self._lengths(self._table.fitted)
        # Sequences of similar length share a step, as padding is computed like everything else.
        row_C = np.argsort(length_C + self._draw.uniform(0, LENGTH_NOISE, len(length_C)))
        begins = np.arange(0, len(row_C), batch_size)
        for step, begin in enumerate(self._draw.permutation(begins).tolist()):
            self.model._batch_index = step
            self.model.train_step(self._table.batch(self._table.fitted, row_C[begin : begin + batch_size]))

    @torch.no_grad()
    def scores(self) -> Array:
        """Return the probabilities of the examples to score, [C]."""
        self.model.eval()
        row_C = np.argsort(self._lengths(self._table.judged), kind="stable")
        score_C = np.empty(len(row_C), np.float32)
        for begin in range(0, len(row_C), ROWS):
            chosen = row_C[begin : begin + ROWS]
            score_C[chosen] = self.model(self._table.batch(self._table.judged, chosen))["y_pred"].squeeze(1)
        return score_C

    def _lengths(self, part: dict[str, Array]) -> Array:
        return part["length_R"][part["request_C"]]


def main(folder: Path, rival: str, action: str) -> None:
    """Choose a setting, train it with every seed, and write what it scores."""
    budget = json.loads((folder / "budget.json").read_text())
    column = budget["label_actions"].index(action)
    trials = searched(folder, rival, action, budget)
    best = max(trials, key=lambda trial: max(trial["validation_auc"]))
    epochs = int(np.argmax(best["validation_auc"])) + 1
    table, scores, seconds = Table(folder / "final.npz", column), [], []
    for seed in budget["seeds"]:
        began = time.process_time()
        learner = Learner(rival, table, best["setting"], seed, folder)
        for _ in range(epochs):
            learner.train_epoch(budget["batch_size"])
        scores.append(learner.scores())
        seconds.append(time.process_time() - began)
    told = {
        "trials": trials,
        "setting": best["setting"],
        "epochs": epochs,
        "parameters": sum(weight.numel() for weight in learner.model.parameters()),
        "seconds": seconds,
    }
    (folder / f"{rival}-{action}.json").write_text(json.dumps(told, indent=1) + "\n")
    np.savez(folder / f"{rival}-{action}.npz", score_KC=np.stack(scores))


def searched(folder: Path, rival: str, action: str, budget: dict[str, Any]) -> list[dict[str, Any]]:
    """Try every setting that was not tried before, and return what all reached."""
    kept = folder / f"{rival}-{action}-trials.json"
    found = json.loads(kept.read_text()) if kept.exists() else []
    table = Table(folder / "search.npz", budget["label_actions"].index(action))
    for setting in budget["settings"]:
        if setting in [trial["setting"] for trial in found]:
            continue
        trial = {"setting": setting} | tried(Learner(rival, table, setting, 0, folder), table, budget)
        found.append(trial)
        kept.write_text(json.dumps(found, indent=1) + "\n")
        areas = " ".join(f"{area:.4f}" for area in trial["validation_auc"])
        print(f"{rival} {action} {setting}: {areas}", flush=True)
    return found


def tried(learner: Learner, table: Table, budget: dict[str, Any]) -> dict[str, Any]:
    """Train as long as the AUC on the validation days grows, with the budget's patience; return that of every
    epoch."""
    areas: list[float] = []
    began = time.process_time()
    while (
        len(areas) < budget["epochs"] and len(areas) - 1 - int(np.argmax(areas or [0])) <= budget["patience"]
    ):
        learner.train_epoch(budget["batch_size"])
        areas.append(float(roc_auc_score(table.judged["label_C"], learner.scores())))
    return {"validation_auc": areas, "seconds": time.process_time() - began}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
