"""`unipinrec data` imports and describes, and says in one line what is wrong."""

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from commands import fetch
from commands.app import app
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.movielens import MovieLensError
from unipinrec.data.prepared import read_prepared

LOG = """user_id,item_id,actions,timestamp
7,5,1,100
7,6,3,150
7,5,2,900
8,6,1,100
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return path


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], color=True, env={"COLUMNS": "120"})
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: str | Path) -> str:
    """The error line of a refused command, after checking that it is one red line."""
    code, _, stderr = run(*arguments)
    assert code == 2
    assert stderr.startswith("\x1b[31m")
    assert stderr.count("\n") == 1
    return stderr.removeprefix("\x1b[31m").removesuffix("\x1b[0m\n")


def test_a_csv_log_becomes_a_dataset(log: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title,attributes,content\n5,Chair,,0.5 1\n6,Lamp,8 3,\n")
    out = tmp_path / "shop"
    code, stdout, _ = run(
        "import", "--events", log, "--items", items, "--actions", "click,save",
        "--surfaces", "home,search", "--utility-weights", "1,2.5", "--positive-actions", "save", "--out", out,
    )  # fmt: skip
    assert (code, stdout) == (0, f"4 events written to {out}\n")
    dataset = InteractionDataset.load(out)
    assert dataset.info.name == "shop"
    assert dataset.info.surfaces == ("home", "search")
    assert dataset.info.utility_weights == (1.0, 2.5)
    assert dataset.info.sampled_impressions
    assert dataset.positive_mask == 0b10
    assert dataset.attributes_VX.tolist() == [[-1, -1], [0, 1]]
    assert dataset.content_VF.tolist() == [[0.5, 1.0], [0.0, 0.0]]
    assert dataset.titles_V.tolist() == ["Chair", "Lamp"]
    assert dataset.user_ids_U.tolist() == ["7", "8"]
    assert dataset.history(0).actions_N.tolist() == [1, 3, 2]
    assert shown_items(dataset) == [[0, 1], [0], [1]]


def shown_items(dataset: InteractionDataset) -> list[list[int]]:
    views = [dataset.feedviews.view(index) for index in range(len(dataset.feedviews))]
    return [view.item_row_K.tolist() for view in views]


def test_a_parquet_log_keeps_its_feedviews_and_impressions(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user_id": ["a", "a", "a"],
            "item_id": [1, 2, 3],
            "actions": [0, 1, 1],
            "timestamp": [5, 5, 6],
            "feedview_id": [9, 9, 4],
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    out = tmp_path / "out"
    code, _, _ = run(
        "import", "--events", tmp_path / "log.parquet", "--actions", "click", "--name", "feed", "--out", out
    )
    assert code == 0
    dataset = InteractionDataset.load(out)
    assert dataset.info.name == "feed"
    assert not dataset.info.sampled_impressions
    assert shown_items(dataset) == [[0, 1], [2]]


def test_describe_shows_counts_and_rates(log: Path, tmp_path: Path) -> None:
    run("import", "--events", log, "--actions", "click,save", "--out", tmp_path / "shop")
    code, stdout, _ = run("describe", tmp_path / "shop")
    assert code == 0
    cells = [
        tuple(cell.strip() for cell in line.split("│")[1:3]) for line in stdout.splitlines() if "│" in line
    ]
    table = dict(cells)
    assert {key: table[key] for key in ("users", "items", "events", "feedviews", "impressions")} == {
        "users": "2", "items": "2", "events": "4", "feedviews": "3", "impressions": "0",
    }  # fmt: skip
    assert (table["positive actions"], table["content width"]) == ("click save", "0")
    assert (table["rate of click"], table["rate of save"]) == ("0.7500", "0.5000")
    assert (table["history, percentile 50"], table["history, percentile 99"]) == ("1", "3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LOG.replace("7,5,2,900", "7,5,4,900"), "actions is 4 in row 3; allowed: 0 to 3"),
        (LOG.replace("8,6,1,100", ",6,1,100"), "user_id is null in row 4; allowed: a value in every row"),
        (LOG.replace("actions", "action"), "actions is missing; allowed: columns user_id, item_id, actions,"),
    ],
)
def test_a_broken_log_is_refused(log: Path, tmp_path: Path, content: str, message: str) -> None:
    log.write_text(content)
    line = refused("import", "--events", log, "--actions", "click,save", "--out", tmp_path / "out")
    assert line.startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_table_is_refused(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    missing = refused("import", "--events", tmp_path / "none.csv", "--actions", "click", "--out", out)
    assert missing == f"file is {tmp_path / 'none.csv'}; allowed: a file or folder that exists"
    (tmp_path / "log.txt").touch()
    text = refused("import", "--events", tmp_path / "log.txt", "--actions", "click", "--out", out)
    endings = ".parquet, .csv, .csv.gz, .tsv, .tsv.gz, .jsonl"
    assert text == f"file is {tmp_path / 'log.txt'}; allowed: names that end in {endings}"
    log.rename(tmp_path / "log.parquet")
    unreadable = refused("import", "--events", tmp_path / "log.parquet", "--actions", "click", "--out", out)
    assert unreadable.startswith(f"file {tmp_path / 'log.parquet'} is unreadable: ")


def test_options_out_of_range_are_refused(log: Path, tmp_path: Path) -> None:
    options = ("import", "--events", log, "--out", tmp_path / "out", "--actions", "click,save")
    weights = refused(*options, "--utility-weights", "1,high")
    assert weights.startswith("utility_weights.1 is 'high'; allowed: a valid number")
    count = refused(*options, "--utility-weights", "1")
    assert "utility_weights is [1.0]; allowed: 2 finite numbers >= 0" in count
    allowed = "allowed: at most 100 letters, digits, dots, dashes and underscores, no mark first"
    assert refused(*options, "--name", "my shop") == f"name is 'my shop'; {allowed}"
    assert refused(*options, "--name", "") == f"name is ''; {allowed}"
    positive = refused(*options, "--positive-actions", "save,buy")
    assert positive == "positive_actions is save, buy; allowed: some of click, save"


def test_a_name_is_made_of_the_folders(log: Path, tmp_path: Path) -> None:
    options = ("import", "--events", log, "--actions", "click,save")
    assert run(*options, "--out", tmp_path / "my (new) shop!")[0] == 0
    assert read_prepared(tmp_path / "my (new) shop!").info.name == "my-new-shop"
    line = refused(*options, "--out", tmp_path / "店")
    assert line == "no name can be made of '店'; name the dataset with --name"


def test_a_name_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "log1.csv").write_text(LOG.replace("7,", "other,"))
    (tmp_path / "log[1].csv").write_text(LOG)
    out = tmp_path / "shop[1]"
    assert run("import", "--events", tmp_path / "log[1].csv", "--actions", "click,save", "--out", out)[0] == 0
    assert InteractionDataset.load(out).user_ids_U.tolist() == ["7", "8"]


def test_a_line_stays_one_line(log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two\nlines"
    line = refused("import", "--events", folder / "log.csv", "--actions", "click", "--out", tmp_path / "out")
    assert line == f"file is {tmp_path}/two lines/log.csv; allowed: a file or folder that exists"
    run("import", "--events", log, "--actions", "click,save", "--out", tmp_path / "shop")
    (tmp_path / "shop" / "dataset.json").write_text('{"name": 3, "actions": 4}')
    assert refused("describe", tmp_path / "shop").startswith(f"dataset {tmp_path / 'shop'}: dataset.json is ")


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    # Before anything is read or made: a whole simulation of this size would take minutes.
    missing = tmp_path / "none.csv"
    for options in (("import", "--events", missing, "--actions", "click"), ("simulate", "--users", "200000")):
        line = refused(*options, "--out", tmp_path)
        assert line == f"folder is {tmp_path}, which exists; allowed: a new folder"


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    assert refused("describe", tmp_path) == (
        f"dataset {tmp_path} has no dataset.json; allowed: a folder that `unipinrec data import`, `fetch` or "
        "`simulate` made"
    )


def test_a_failed_fetch_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(_folder: Path, _report: object) -> None:
        raise MovieLensError("MovieLens 100K cannot be downloaded: no route")

    monkeypatch.setattr(fetch, "fetch_movielens", fail)
    line = refused("fetch", "movielens", "--out", tmp_path / "movielens")
    assert line == "MovieLens 100K cannot be downloaded: no route"
