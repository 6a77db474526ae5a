"""An exploration log is kept whole and verified; one whose chances cannot be right is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from unipinrec.data.arms import Arms, WeightRange
from unipinrec.data.events import EventFormatError
from unipinrec.data.exploration import (
    ExplorationInfo,
    ExplorationLog,
    ExplorationLogError,
    import_log,
    read_arms,
)
from unipinrec.data.exploration_format import validate_requests

ARMS = Arms(
    actions=("click", "save", "share"),
    production=(1.0, 2.0, 3.0),
    varied=(
        WeightRange(action="save", low=1.0, high=4.0, steps=2),
        WeightRange(action="share", low=2.0, high=8.0, steps=2),
    ),
)
"""Arms 0 to 3 are (1, 2), (1, 8), (4, 2), (4, 8), and 4 is production's (2, 3)."""
INFO = ExplorationInfo(name="shop", arms=ARMS, synthetic=False)
ROWS: dict[str, list[Any]] = {
    "request_id": ["r1", "r2", "r3", "r4"],
    "user_id": ["a", "b", "a", "c"],
    "timestamp": [30, 10, 20, 20],
    "surface": [0, 1, 0, 0],
    "explored": [True, True, False, True],
    "weight_save": [1.0, 4.0, 2.0, 2.0],
    "weight_share": [8.0, 2.0, 3.0, 3.0],
    "propensity": [0.2, 0.2, 1.0, 0.2],
    "reward_save": [0.0, 1.0, 0.0, 0.5],
    "reward_share": [1.0, 0.0, 0.0, 1.0],
}


def changed(column: str, value: object, row: int = 3) -> pl.DataFrame:
    values = list(ROWS[column])
    values[row - 1] = value
    return pl.DataFrame({**ROWS, column: values}, strict=False)


def with_propensities(*chances: object) -> pl.DataFrame:
    """Four rows whose second has these chances of all arms."""
    uniform = [0.2] * 5
    lists = [uniform, list(chances), [0, 0, 0, 0, 1.0], uniform]
    return pl.DataFrame({**ROWS, "propensities": lists}, strict=False)


def refusal(table: pl.DataFrame) -> str:
    with pytest.raises(EventFormatError) as caught:
        validate_requests(table, ARMS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_requests_are_ordered_by_time_and_know_their_arms() -> None:
    log = ExplorationLog.of_table(pl.DataFrame(ROWS), INFO)
    assert log.request_id_R.tolist() == ["r2", "r3", "r4", "r1"]
    assert log.user_id_R.tolist() == ["b", "a", "c", "a"]
    assert log.timestamp_R.tolist() == [10, 20, 20, 30]
    assert log.surface_R.tolist() == [1, 0, 0, 0]
    assert log.explored_R.tolist() == [True, False, True, True]
    assert log.arm_R.tolist() == [2, 4, 4, 1]
    assert log.propensity_R.tolist() == [0.2, 1.0, 0.2, 0.2]
    assert log.reward_RM.tolist() == [[1, 0], [0, 0], [0.5, 1], [0, 1]]
    assert log.info.rewards == ("save", "share")


def test_a_csv_log_is_imported_and_read_again(tmp_path: Path) -> None:
    table = pl.DataFrame(ROWS).with_columns(
        propensities=pl.Series(["0.2 0.2 0.2 0.2 0.2"] * 2 + ["0 0 0 0 1"] + ["0.2 0.2 0.2 0.2 0.2"]),
        device=pl.lit("phone"),
    )
    table.write_csv(tmp_path / "log.csv")
    imported = import_log(tmp_path / "log.csv", tmp_path / "out" / "log", INFO)
    loaded = ExplorationLog.load(tmp_path / "out" / "log")
    expected = ExplorationLog.of_table(pl.DataFrame(ROWS), INFO)
    for log in (imported, loaded):
        assert log.table().equals(expected.table())
    assert loaded.info.arms == ARMS
    assert not loaded.info.synthetic


def test_surface_is_0_and_every_request_explored_where_a_log_does_not_say() -> None:
    table = pl.DataFrame(ROWS).drop("surface", "explored").with_columns(propensity=0.2)
    log = ExplorationLog.of_table(table, INFO)
    assert log.surface_R.tolist() == [0, 0, 0, 0]
    assert log.explored_R.all()


def test_a_part_of_a_log_has_those_requests_alone() -> None:
    log = ExplorationLog.of_table(pl.DataFrame(ROWS), INFO)
    assert log[log.explored_R].request_id_R.tolist() == ["r2", "r4", "r1"]
    assert log[1:3].arm_R.tolist() == [4, 4]
    assert len(log[np.array([0])]) == 1


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("propensity", None, "propensity is null in row 3; allowed: a value in every row"),
        ("propensity", 0.0, "propensity is 0.0 in row 3; allowed: more than 0, at most 1"),
        ("propensity", 1.5, "propensity is 1.5 in row 3; allowed: more than 0, at most 1"),
        ("propensity", float("nan"), "propensity is nan in row 3; allowed: more than 0, at most 1"),
        ("propensity", "often", "propensity is 'often' in row 3; allowed: Float64"),
        ("reward_save", -0.5, "reward_save is -0.5 in row 3; allowed: 0 to 1"),
        ("reward_share", 2.0, "reward_share is 2.0 in row 3; allowed: 0 to 1"),
        ("reward_share", float("nan"), "reward_share is nan in row 3; allowed: 0 to 1"),
        ("reward_save", None, "reward_save is null in row 3; allowed: a value in every row"),
        ("request_id", "r1", "request_id is 'r1' in row 3; allowed: every request once"),
        ("request_id", "", "request_id is '' in row 3; allowed: 1 to 512 bytes"),
        ("user_id", "u" * 257, f"user_id is '{'u' * 79}… in row 3; allowed: 1 to 256 bytes"),
        ("timestamp", 1_700_000_000_000, "timestamp is 1700000000000 in row 3; allowed: unix seconds, 0 to"),
        ("timestamp", -1, "timestamp is -1 in row 3; allowed: unix seconds, 0 to 99999999999"),
        ("surface", -1, "surface is -1 in row 3; allowed: 0 to 2147483647"),
        ("explored", "perhaps", "explored is 'perhaps' in row 3; allowed: true or false"),
        (
            "weight_save",
            1.01,
            "weight_save and weight_share is [1.01, 3.0] in row 3; allowed: save in 2 steps from 1 to 4, "
            "share in 2 steps from 2 to 8, or production's 2 and 3",
        ),
    ],
)
def test_a_row_out_of_range_is_refused(column: str, value: object, message: str) -> None:
    if isinstance(value, str) and column != "request_id":
        table = pl.DataFrame(ROWS).with_columns(pl.all().cast(pl.String))
        values = table[column].to_list()
        values[2] = value
        table = table.with_columns(pl.Series(column, values))
    else:
        table = changed(column, value)
    assert refusal(table).startswith(message)


@pytest.mark.parametrize("column", ["propensity", "request_id", "weight_share", "reward_save"])
def test_a_missing_column_is_named(column: str) -> None:
    message = refusal(pl.DataFrame(ROWS).drop(column))
    assert message.startswith(f"{column} is missing; allowed: columns request_id, user_id, timestamp, ")
    assert message.endswith("and optionally surface, explored, propensities")


@pytest.mark.parametrize(
    ("chances", "message"),
    [
        (
            (0.2, 0.2, 0.2, 0.2, 0.1),
            f"sum_of_propensities is {0.2 + 0.2 + 0.2 + 0.2 + 0.1} in row 2; allowed: 1, within 0.001",
        ),
        (
            (0.1, 0.2, 0.3, 0.2, 0.2),
            "propensity is 0.2 in row 2; allowed: 0.3, which propensities has for its arm",
        ),
        ((0.5, 0.5), "propensities is [0.5, 0.5] in row 2; allowed: 5 chances, one for each arm"),
        ((-0.2, 0.4, 0.2, 0.4, 0.2), "propensities is [-0.2, 0.4, 0.2, 0.4, 0.2] in row 2; allowed: chances"),
        (
            (None, 0.4, 0.2, 0.2, 0.2),
            "propensities is [None, 0.4, 0.2, 0.2, 0.2] in row 2; allowed: List(Float64)",
        ),
    ],
)
def test_chances_of_all_arms_are_checked_one_by_one(chances: tuple[object, ...], message: str) -> None:
    assert refusal(with_propensities(*chances)).startswith(message)


def drawn(propensity_K: list[float], written_K: list[float], requests: int = 4_000) -> pl.DataFrame:
    """A log whose arms are drawn by some chances, which are written down as others."""
    arm_R = np.random.default_rng(4).choice(5, requests, p=propensity_K)
    return pl.DataFrame(
        {
            "request_id": np.arange(requests),
            "user_id": "a",
            "timestamp": 5,
            "weight_save": ARMS.weights()[arm_R, 1],
            "weight_share": ARMS.weights()[arm_R, 2],
            "propensity": np.array(written_K)[arm_R],
            "reward_save": 0.0,
            "reward_share": 0.0,
        }
    )


def test_chances_of_drawn_arms_alone_must_be_able_to_sum_up_to_1() -> None:
    skewed = [0.1, 0.1, 0.2, 0.2, 0.4]
    assert len(validate_requests(drawn(skewed, skewed), ARMS)) == 4_000
    assert len(validate_requests(drawn([0.2] * 5, [0.2] * 5), ARMS)) == 4_000
    quarter = refusal(drawn([0.2] * 5, [0.25] * 5))
    assert quarter == (
        "mean of 1 / (5 x propensity) is 0.8000 over 4000 explored requests; allowed: 1, within 0.0010, as "
        "the chances of all 5 arms sum up to 1"
    )
    # Uniform draws with these chances beside them: (2 / .1 + 2 / .2 + 1 / .4) / 25 = 1.3.
    found = refusal(drawn([0.2] * 5, skewed)).removeprefix("mean of 1 / (5 x propensity) is ").split()[0]
    assert float(found) == pytest.approx(1.3, abs=0.03)


def test_a_log_without_exploration_or_rows_is_refused() -> None:
    nothing = pl.DataFrame(ROWS).with_columns(explored=False)
    assert refusal(nothing) == "explored is false in all rows; allowed: at least one drawn arm"
    assert refusal(pl.DataFrame(ROWS).clear()) == "log is empty; allowed: at least one request"


def test_a_refused_log_leaves_nothing_behind_and_an_existing_folder_stays(tmp_path: Path) -> None:
    changed("reward_save", 2.0).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(EventFormatError):
        import_log(tmp_path / "log.parquet", tmp_path / "out", INFO)
    assert not (tmp_path / "out").exists()
    log = ExplorationLog.of_table(pl.DataFrame(ROWS), INFO)
    with pytest.raises(ExplorationLogError, match=r"which exists; allowed: a new folder$"):
        log.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


def test_an_altered_or_missing_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    ExplorationLog.of_table(pl.DataFrame(ROWS), INFO).save(folder)
    content = bytearray((folder / "requests.parquet").read_bytes())
    content[20] ^= 1
    (folder / "requests.parquet").write_bytes(content)
    with pytest.raises(ExplorationLogError, match=r"sha256 of requests\.parquet is .{64}; allowed: .{64}$"):
        ExplorationLog.load(folder)
    (folder / "requests.parquet").unlink()
    with pytest.raises(ExplorationLogError, match=r"has no requests\.parquet; allowed: "):
        ExplorationLog.load(folder)
    (folder / "exploration.json").write_text("{}")
    with pytest.raises(ExplorationLogError, match=r"exploration\.json is unreadable"):
        ExplorationLog.load(folder)


def test_arms_are_read_alone_or_out_of_what_has_them(tmp_path: Path) -> None:
    (tmp_path / "arms.json").write_text(ARMS.model_dump_json())
    (tmp_path / "exploration.json").write_text(INFO.model_dump_json())
    assert read_arms(tmp_path / "arms.json") == read_arms(tmp_path / "exploration.json") == ARMS
    (tmp_path / "arms.json").write_text('{"actions": ["click"]}')
    with pytest.raises(ExplorationLogError, match=r"arms\.json: actions is \['click'\]; "):
        read_arms(tmp_path / "arms.json")
    (tmp_path / "arms.json").write_text(ARMS.model_dump_json(exclude={"production"}))
    with pytest.raises(ExplorationLogError, match=r"arms\.json: production is missing$"):
        read_arms(tmp_path / "arms.json")
    (tmp_path / "arms.json").write_text("arms")
    with pytest.raises(ExplorationLogError, match=r"arms\.json is no JSON: "):
        read_arms(tmp_path / "arms.json")
