"""The other library's rankers, in its own environment, on examples whose answers are known."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

pytest.importorskip("fuxictr", reason="`make test-oracles` has fuxictr")

MAIN = Path(__file__).parents[2] / "experiments" / "rivals" / "rivals_main.py"
ITEMS, REQUESTS, KINDS = 60, 2_000, 4
NONE = {"embedding_l2": 0.0, "net_l2": 0.0, "dropout": 0.0}
TOLD = {"label_actions": ["click", "save"], "epochs": 8, "patience": 8, "batch_size": 64, "seeds": [0, 1]}


def examples(
    name: str, draw: np.random.Generator, labels: bool
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Requests of 0 to 8 events of one kind of items; a candidate of that kind is saved."""
    kind_R, length_R = draw.integers(KINDS, size=REQUESTS), draw.integers(9, size=REQUESTS)
    item_N = np.repeat(kind_R, length_R) + KINDS * draw.integers(ITEMS // KINDS, size=length_R.sum())
    item_C = draw.integers(ITEMS, size=REQUESTS)
    saved_C = (item_C % KINDS == kind_R) & (length_R > 0)
    arrays = {
        "event_item_N": item_N,
        "event_actions_N": np.full(len(item_N), 2),
        "event_offset_R1": np.concatenate([[0], np.cumsum(length_R)]),
        "surface_R": np.zeros(REQUESTS, np.int64),
        "request_C": np.arange(REQUESTS),
        "item_C": item_C,
        "number_CX": draw.normal(size=(REQUESTS, 3)).astype(np.float32),
    }
    if labels:
        arrays["label_CA"] = np.stack([draw.random(REQUESTS) < 0.5, saved_C], axis=1)
    return {f"{name}/{key}": array for key, array in arrays.items()}, saved_C


def write_table(path: Path, seed: int, labels: bool) -> NDArray[np.bool_]:
    """Write a table and return what of its examples to score is saved."""
    draw = np.random.default_rng(seed)
    fitted, _ = examples("fitted", draw, labels=True)
    judged, saved_C = examples("judged", draw, labels)
    np.savez(
        path,
        item_number_V=np.arange(ITEMS) + 2,
        attributes_VX=np.arange(ITEMS)[:, None] % KINDS,
        content_VF=np.zeros((ITEMS, 0), np.float32),
        surfaces=np.array(1),
        **fitted,
        **judged,
    )
    return saved_C


@pytest.mark.parametrize(("rival", "rate"), [("TransAct", 1e-3), ("DIN", 1e-2), ("SIM", 1e-2)])
def test_a_rival_learns_from_sequences_with_the_better_setting(
    rival: str, rate: float, tmp_path: Path
) -> None:
    settings = [{"learning_rate": each, "embedding_dim": 8, "regularisation": NONE} for each in (1e-8, rate)]
    write_table(tmp_path / "search.npz", 0, labels=True)
    saved_C = write_table(tmp_path / "final.npz", 1, labels=False)
    (tmp_path / "budget.json").write_text(json.dumps(TOLD | {"settings": settings}))
    subprocess.run([sys.executable, "-W", "ignore", MAIN, tmp_path, rival, "save"], check=True)
    score_KC = np.load(tmp_path / f"{rival}-save.npz")["score_KC"]
    told = json.loads((tmp_path / f"{rival}-save.json").read_text())
    assert score_KC.shape == (2, REQUESTS)
    assert not np.array_equal(score_KC[0], score_KC[1])
    for score_C in score_KC:
        assert roc_auc_score(saved_C, score_C) > 0.75
    assert told["setting"] == settings[1]
    areas = told["trials"][1]["validation_auc"]
    assert told["epochs"] == areas.index(max(areas)) + 1
