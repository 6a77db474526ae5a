"""`unipinrec store` fills a store from a dataset or lines of JSON, and refuses what is wrong in one line."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from commands.app import app
from ensemble.stores.history_store import LARGEST
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.conftest import USERS, Exported
from unipinrec.data.events import DatasetInfo
from unipinrec.data.prepared import write_prepared

ANN = {"user_id": "ann", "item_ids": [1, 7], "actions": [1, 3], "timestamps": [10, 30], "surfaces": [0, 1]}


@pytest.fixture
def histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the environment says that the store is."""
    monkeypatch.setenv("UNIPINREC_HISTORIES", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A prepared dataset of two users."""
    info = DatasetInfo(
        name="shop", actions=("click", "save"), sampled_impressions=True, utility_weights=(1.0, 2.0)
    )
    rows = [("a", 30, 1, 5), ("a", 10, 3, 6), ("a", 20, 2, 9), ("b", 40, 1, 7)]
    columns = ["user_id", "item_id", "actions", "timestamp"]
    items = pl.DataFrame({"item_id": [10, 20, 30, 40], "title": ["ten", "twenty", "thirty", None]})
    write_prepared(tmp_path / "shop", pl.DataFrame(rows, columns, orient="row"), items, info)
    return tmp_path / "shop"


def run(*arguments: object, text: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["store", *map(str, arguments)], input=text, env={"COLUMNS": "120"})
    return result.exit_code, result.stdout.strip(), result.stderr


def stored(histories: Path) -> dict[str, list[tuple[int, ...]]]:
    with LmdbHistoryStore(histories) as store:
        return {user.decode(): store.read(user).tolist() for user in store.first_users(99)}


def lines(tmp_path: Path, *users: object) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(user) + "\n" for user in users))
    return path


def test_a_dataset_takes_the_place_of_what_was_stored_on_request(
    shop: Path, histories: Path, tmp_path: Path
) -> None:
    run("append", lines(tmp_path, ANN))
    code, out, _ = run("import", "--dataset", shop, "--replace")
    assert (code, out) == (0, f"4 events of 2 users stored in {histories}")
    assert stored(histories) == {
        "a": [(30, 1, 5, 0), (10, 3, 6, 0), (20, 2, 9, 0)],
        "b": [(40, 1, 7, 0)],
    }


def test_a_dataset_is_merged_with_what_was_appended_as_often_as_it_is_imported(
    shop: Path, histories: Path, tmp_path: Path
) -> None:
    live = {
        "user_id": "a",
        # As the dataset has it, though with an id; at another time; an impression.
        **{"item_ids": [10, 10, 20], "actions": [1, 1, 0], "timestamps": [6, 8, 9]},
        "event_ids": ["x", "y", "z"],
    }
    run("append", lines(tmp_path, ANN, live))
    merged = {
        "a": [(30, 1, 5, 0), (10, 1, 6, 0), (10, 1, 8, 0), (20, 0, 9, 0), (20, 2, 9, 0)],
        "ann": stored(histories)["ann"],
        "b": [(40, 1, 7, 0)],
    }
    for told in (
        "3 events of 2 users stored in {}, 1 duplicates",
        "0 events of 2 users stored in {}, 4 duplicates",
    ):
        code, out, _ = run("import", "--dataset", shop)
        assert (code, out) == (0, told.format(histories))
        assert stored(histories) == merged
        # What was appended has its id still, and what comes again by it is a duplicate.
        assert run("append", lines(tmp_path, live))[1].endswith("3 duplicates")
        assert stored(histories) == merged


def test_of_both_the_latest_events_are_kept(
    shop: Path, histories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIPINREC_MAX_STORED_EVENTS", "2")
    run("append", lines(tmp_path, {**ANN, "user_id": "a", "timestamps": [3, 8]}))
    for _ in range(2):
        assert run("import", "--dataset", shop)[0] == 0
        with LmdbHistoryStore(histories, most_events=2) as store:
            assert store.read(b"a").tolist() == [(7, 3, 8, 1), (20, 2, 9, 0)]
            assert store.read(b"b").tolist() == [(40, 1, 7, 0)]


def test_an_import_that_fails_says_which_users_are_stored_and_goes_on_when_it_is_run_again(
    shop: Path, histories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("ensemble.stores.history_store.USERS_AT_ONCE", 1)
        broken.setitem(LARGEST, "item_id", 39)
        code, _, stderr = run("import", "--dataset", shop)
    assert code == 2
    assert stderr == (
        "user 'b': item_id is 40 at event 0; allowed: 0 to 39; "
        "1 users before are stored, and may be given again\n"
    )
    assert stored(histories).keys() == {"a"}
    assert run("import", "--dataset", shop)[1] == f"1 events of 2 users stored in {histories}, 3 duplicates"


def test_the_latest_events_are_left_out_on_request(shop: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "other"
    code, out, _ = run("import", "--dataset", shop, "--skip-last", 2, "--histories", chosen)
    assert (code, out) == (0, f"1 events of 1 users stored in {chosen}")
    assert stored(chosen) == {"a": [(30, 1, 5, 0)]}


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """A prepared dataset of slates: user a sees three, of two items each or three, and acts on some."""
    info = DatasetInfo(name="shown", actions=("click",), sampled_impressions=False, utility_weights=(1.0,))
    columns = ["user_id", "item_id", "actions", "timestamp", "feedview_id"]
    rows = [
        *[("a", 10, 0, 5, 0), ("a", 20, 1, 6, 0)],
        *[("a", 30, 0, 8, 1), ("a", 10, 1, 9, 1), ("a", 20, 0, 9, 1)],
        *[("a", 10, 0, 12, 2), ("a", 30, 0, 12, 2)],
        ("b", 30, 0, 7, 0),
    ]
    items = pl.DataFrame({"item_id": [10, 20, 30], "title": ["ten", "twenty", "thirty"]})
    write_prepared(tmp_path / "shown", pl.DataFrame(rows, columns, orient="row"), items, info)
    return tmp_path / "shown"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            (),
            {
                "a": [
                    (10, 0, 5, 0),
                    *[(20, 1, 6, 0), (30, 0, 8, 0), (20, 0, 8, 0), (10, 1, 9, 0)],
                    *[(10, 0, 12, 0), (30, 0, 12, 0)],
                ],
                "b": [(30, 0, 7, 0)],
            },
        ),
        (
            ("--impressions", 2),
            {"a": [(20, 1, 6, 0), (10, 1, 9, 0), (10, 0, 12, 0), (30, 0, 12, 0)], "b": [(30, 0, 7, 0)]},
        ),
        (("--impressions", 0), {"a": [(20, 1, 6, 0), (10, 1, 9, 0)]}),
        # What was beside the event that is left out would tell of it.
        (("--skip-last", 1), {"a": [(10, 0, 5, 0), (20, 1, 6, 0)], "b": [(30, 0, 7, 0)]}),
        (("--skip-last", 2), {"b": [(30, 0, 7, 0)]}),
    ],
)
def test_what_was_shown_in_vain_is_stored_as_events_without_actions(
    shown: Path, histories: Path, options: tuple[object, ...], expected: dict[str, list[tuple[int, ...]]]
) -> None:
    assert run("import", "--dataset", shown, *options)[0] == 0
    assert stored(histories) == expected


def test_every_users_history_has_external_ids(exported: Exported) -> None:
    dataset = exported.dataset
    with LmdbHistoryStore(exported.histories) as store:
        for user in range(USERS):
            history = dataset.history(user)
            found = store.read(str(dataset.user_ids_U[user]).encode())
            assert found["item_id"].tolist() == (1000 + 3 * history.item_row_N).tolist()
            assert found["actions"].tolist() == history.actions_N.tolist()
            assert found["timestamp"].tolist() == history.timestamp_N.tolist()
            assert found["surface"].tolist() == history.surface_N.tolist()


def test_lines_are_appended_in_order_of_time(histories: Path, tmp_path: Path) -> None:
    code, out, _ = run("append", lines(tmp_path, ANN, {**ANN, "user_id": 42}))
    assert (code, out) == (0, f"4 events of 2 users appended to {histories}")
    later = {"user_id": "ann", "item_ids": [5, 6], "actions": [1, 1], "timestamps": [20, 40]}
    assert run("append", lines(tmp_path, later))[0] == 0
    assert stored(histories) == {
        "42": [(1, 1, 10, 0), (7, 3, 30, 1)],
        "ann": [(1, 1, 10, 0), (5, 1, 20, 0), (7, 3, 30, 1), (6, 1, 40, 0)],
    }


def test_events_that_are_there_already_are_told_and_not_stored_again(histories: Path, tmp_path: Path) -> None:
    ids = {"event_ids": ["a", "b"]}
    run("append", lines(tmp_path, ANN, {**ANN, **ids, "user_id": "bob"}))
    again = [ANN, {**ANN, **ids, "user_id": "bob", "timestamps": [11, 31]}, {**ANN, "user_id": "bob"}]
    code, out, _ = run("append", lines(tmp_path, *again))
    assert (code, out) == (0, f"2 events of 3 users appended to {histories}, 4 duplicates")
    assert stored(histories)["bob"] == [(1, 1, 10, 0), (1, 1, 10, 0), (7, 3, 30, 1), (7, 3, 30, 1)]


def test_only_the_latest_events_are_kept(
    histories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIPINREC_MAX_STORED_EVENTS", "1")
    code, out, _ = run("append", lines(tmp_path, ANN))
    assert (code, out) == (0, f"1 events of 1 users appended to {histories}, 1 too old to be kept")
    with LmdbHistoryStore(histories, most_events=1) as store:
        assert store.read(b"ann").tolist() == [(7, 3, 30, 1)]


def test_what_is_exported_makes_an_equal_store(histories: Path, tmp_path: Path) -> None:
    raw = [
        ANN,
        {**ANN, "user_id": "bob", "event_ids": ["a", ""]},
        {**ANN, "user_id": "\udcff", "actions": [0, 0]},
    ]
    run("append", lines(tmp_path, *raw))
    assert run("export", tmp_path / "out.jsonl")[0] == 0
    copy = tmp_path / "copy"
    assert run("append", tmp_path / "out.jsonl", "--histories", copy)[0] == 0
    assert whole(copy) == whole(histories)
    assert whole(copy).keys() == {b"ann", b"bob", b"\xff"}
    run("append", lines(tmp_path, raw[1]), "--histories", copy)
    assert whole(copy) == whole(histories)
    assert run("export", tmp_path / "one.jsonl", "--user", "ann")[0] == 0
    assert json.loads((tmp_path / "one.jsonl").read_text()) == ANN


def whole(path: Path) -> dict[bytes, list[tuple[int, ...]]]:
    with LmdbHistoryStore(path) as store:
        return {user: events.tolist() for user, events in store.histories()}


def test_a_user_is_deleted_and_the_file_compacted(histories: Path, tmp_path: Path) -> None:
    run("append", lines(tmp_path, ANN, {**ANN, "user_id": "bob"}))
    assert run("delete-user", "ann")[:2] == (0, f"2 events of ann deleted from {histories}")
    assert stored(histories).keys() == {"bob"}
    before = (histories / "data.mdb").stat().st_size
    code, out, _ = run("compact")
    after = (histories / "data.mdb").stat().st_size
    assert (code, out) == (0, f"{histories} has {after:,} bytes; before: {before:,}")
    assert stored(histories).keys() == {"bob"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timestamps": [30, 10]}, "timestamps is 10 at event 1; allowed: ascending, at least 30"),
        ({"timestamps": [10, 10**12]}, f"timestamp is {10**12} at event 1; allowed: 0 to 99999999999"),
        ({"item_ids": [1, -7]}, "item_id is -7 at event 1; allowed: 0 to 9223372036854775807"),
        ({"actions": [2**32, 1]}, f"actions is {2**32} at event 0; allowed: 0 to {2**32 - 1}"),
        ({"surfaces": [-1, 0]}, "surface is -1 at event 0; allowed: 0 to 2147483647"),
        ({"user_id": ""}, "user_id '' has 0 bytes; allowed: 1 to 256"),
        ({"user_id": "\ud800"}, "surrogates not allowed"),
        ({"item_ids": [1]}, "allowed: lists of one length"),
        ({"event_ids": ["a"]}, "allowed: lists of one length"),
        ({"event_ids": ["a", 7]}, "event_ids is 7 at event 1; allowed: texts"),
        ({"event_ids": "ab"}, 'event_ids is "ab"; allowed: a list of texts'),
        ({"event_ids": ["a", "x" * 257]}, "event_id has 257 bytes; allowed: 0 to 256"),
    ],
)
def test_a_wrong_line_is_named_with_its_value_and_nothing_is_appended(
    histories: Path, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    run("append", lines(tmp_path, ANN))
    path = lines(tmp_path, {**ANN, "user_id": "bob"}, {**ANN, **fields})
    code, _, stderr = run("append", path)
    assert code == 2
    assert stderr.startswith(f"{path}, line 2: ")
    assert stderr.endswith(f"{message}\n")
    assert stderr.count("\n") == 1
    assert stored(histories).keys() == {"ann"}


def test_what_is_no_store_is_refused_in_one_line(shop: Path, tmp_path: Path) -> None:
    for arguments in (("import", "--dataset", shop), ("append", lines(tmp_path, ANN))):
        code, _, stderr = run(*arguments, "--histories", shop)
        assert code == 2
        assert stderr == f"{shop} is no history store; `unipinrec store` makes one in a new folder\n"
    assert sorted(path.name for path in shop.iterdir()) == ["dataset.json", "events.parquet", "items.parquet"]


def test_a_file_or_dataset_that_is_not_there_is_named(histories: Path, tmp_path: Path) -> None:
    for arguments in (("import", "--dataset", tmp_path / "none"), ("append", tmp_path / "none")):
        code, _, stderr = run(*arguments)
        assert code == 2
        assert str(tmp_path / "none") in stderr
        assert stderr.count("\n") == 1
    assert not histories.exists()


def test_the_help_explains_what_a_store_is() -> None:
    code, out, _ = run("--help")
    assert code == 0
    said = " ".join(out.replace("│", " ").split())
    assert "what is appended counts at the user's next one" in said
    assert "UNIPINREC_HISTORIES" in said
