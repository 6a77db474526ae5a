"""Choices of any policy, read for the requests of an exploration log."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.support.exploration import small_log
from unipinrec.data.choices import read_choices, read_values
from unipinrec.data.events import EventFormatError

LOG = small_log(requests=4)
ARMS = len(LOG.info.arms)
IDS = ["r3", "r0", "r2", "r1", "elsewhere"]
"""In another order than the log's, with one more."""


def written(tmp_path: Path, columns: dict[str, object], name: str = "table.parquet") -> Path:
    file = tmp_path / name
    table = pl.DataFrame({"request_id": IDS, **columns})
    table.write_csv(file) if name.endswith("csv") else table.write_parquet(file)
    return file


@pytest.mark.parametrize("name", ["choices.parquet", "choices.csv"])
def test_arms_are_put_into_the_logs_order(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, {"arm": [3, 0, 2, 1, 4]}, name)

    assert read_choices(file, LOG).tolist() == [0, 1, 2, 3]


def test_chances_are_put_into_the_logs_order(tmp_path: Path) -> None:
    chances = np.random.default_rng(0).dirichlet(np.ones(ARMS), 5)

    found = read_choices(written(tmp_path, {"chances": chances.tolist()}), LOG)

    np.testing.assert_array_equal(found, chances[[1, 3, 2, 0]])


def test_values_are_stacked_by_reward(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((5, ARMS, 2))
    columns = {f"value_{name}": values[:, :, m].tolist() for m, name in enumerate(LOG.info.rewards)}

    found = read_values(written(tmp_path, columns), LOG)

    np.testing.assert_array_equal(found, values[[1, 3, 2, 0]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "arm is missing; allowed: columns request_id, arm"),
        ({"arm": [0, 1, 2, ARMS, 0]}, f"arm is {ARMS} in row 4; allowed: 0 to {ARMS - 1}"),
        ({"arm": [0, 1, -1, 2, 0]}, f"arm is -1 in row 3; allowed: 0 to {ARMS - 1}"),
        ({"arm": [0, None, 1, 2, 0]}, "arm is null in row 2; allowed: a value in every row"),
        (
            {"request_id": ["r0", "r1", "r0", "r2", "r3"], "arm": [0] * 5},
            "request_id is 'r0' in row 3; allowed: each request once",
        ),
        (
            {"request_id": ["r0", "a", "b", "r2", "c"], "arm": [0] * 5},
            "request r1 of log small has no row, as 2 of 4 explored requests; allowed: a row for each",
        ),
        (
            {"chances": [[1.0]] * 5},
            rf"chances is \[1.0\] in row 1; allowed: {ARMS} numbers",
        ),
        (
            {"chances": [[1.0] + [0.0] * (ARMS - 1)] * 4 + [[float("nan")] * ARMS]},
            r"chances is \[nan, .* in row 5; allowed: finite numbers",
        ),
        (
            {"chances": [[1.0] + [None] * (ARMS - 1)] * 5},
            r"chances is \[1.0, None.* in row 1; allowed: List\(Float64\)",
        ),
    ],
)
def test_choices_that_do_not_fit_the_log_are_refused(
    tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    file = written(tmp_path, columns)

    with pytest.raises(EventFormatError, match=message):
        read_choices(file, LOG)


def test_values_of_one_reward_alone_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, {f"value_{LOG.info.rewards[0]}": [[0.5] * ARMS] * 5})

    with pytest.raises(EventFormatError, match=f"value_{LOG.info.rewards[1]} is missing"):
        read_values(file, LOG)
