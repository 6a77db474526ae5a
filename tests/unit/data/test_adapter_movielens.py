"""Every release of MovieLens becomes the same kind of dataset from its own files."""

import zipfile
from pathlib import Path

import pytest

from unipinrec.data.adapters.movielens import GENRES, SMALL, prepare_movielens
from unipinrec.data.adapters.sources import source_files
from unipinrec.data.events import EventFormatError
from unipinrec.data.prepared import PreparedDataset, read_prepared

CSV = {
    "ratings.csv": (
        "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n1,306,3.5,1147868817\n2,296,0.5,7\n"
    ),
    "movies.csv": 'movieId,title,genres\n296,"Gare, La (1994)",Comedy|Drama\n306,Été,(no genres listed)\n',
}
COLUMNS = "userId, movieId, rating, timestamp"
FLAGS = dict.fromkeys(GENRES, "0") | {"Comedy": "1", "Drama": "1"}
RELEASES = {
    "ml-25m": CSV,
    "ml-1m": {
        "ratings.dat": "1::296::5::1147880044\n1::306::3.5::1147868817\n2::296::0.5::7\n",
        "movies.dat": "296::Gare, La (1994)::Comedy|Drama\n306::Été::(no genres listed)\n",
    },
    "ml-100k": {
        "u.data": "1\t296\t5\t1147880044\n1\t306\t3.5\t1147868817\n2\t296\t0.5\t7\n",
        "u.item": f"296|Gare, La (1994)|||u|{'|'.join(FLAGS.values())}\n306|Été|||u{'|0' * len(GENRES)}\n",
    },
}


def prepare(path: Path, out: Path) -> PreparedDataset:
    prepare_movielens(path, out, lambda _: None)
    return read_prepared(out)


def write(folder: Path, files: dict[str, str], encoding: str = "utf-8") -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, encoding=encoding)
    return folder


@pytest.mark.parametrize(
    ("release", "encoding"),
    [
        ("ml-25m", "utf-8"),
        ("ml-25m", "utf-8-sig"),
        ("ml-1m", "latin-1"),
        ("ml-1m", "utf-8"),
        ("ml-100k", "latin-1"),
    ],
)
def test_ratings_are_actions_and_films_have_attributes(tmp_path: Path, release: str, encoding: str) -> None:
    dataset = prepare(write(tmp_path / release, RELEASES[release], encoding), tmp_path / "out")
    watch, like, love, dislike = 1, 2, 4, 8
    assert dataset.events.select("user_id", "item_id", "actions", "timestamp").rows() == [
        ("1", 306, watch, 1147868817),
        ("1", 296, watch | like | love, 1147880044),
        ("2", 296, watch | dislike, 7),
    ]
    # Comedy, Drama and the year are 0, 1, 2.
    assert dataset.items.select("item_id", "title", "attributes").rows() == [
        (296, "Gare, La (1994)", [0, 1, 2]),
        (306, "Été", []),
    ]
    assert dataset.info.name == "movielens"
    assert dataset.info.actions == ("watch", "like", "love", "dislike")


def test_a_file_of_ratings_alone_is_enough(tmp_path: Path) -> None:
    file = write(tmp_path, {"ml25m.csv": CSV["ratings.csv"]}) / "ml25m.csv"
    assert prepare(file, tmp_path / "out").items["title"].to_list() == ["296", "306"]


def test_an_archive_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ml-latest-small.zip", "w") as archive:
        for name, content in {**CSV, "tags.csv": "x"}.items():
            archive.writestr(f"ml-latest-small/{name}", content)
    out = tmp_path / "out"
    with source_files(tmp_path / "ml-latest-small.zip", [SMALL], out, lambda _: None) as folder:
        assert sorted(path.name for path in folder.rglob("*.*")) == ["movies.csv", "ratings.csv"]
        assert len(prepare(folder, out).events) == 3


def with_rating(text: str) -> str:
    return CSV["ratings.csv"].replace("3.5", text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ratings.csv", "user,movie\n1,2\n", f"userId is missing; allowed: columns {COLUMNS}"),
        ("ratings.csv", with_rating("good"), "rating is 'good' in row 2; allowed: a number"),
        ("ratings.csv", with_rating("10"), "rating is 10.0 in row 2; allowed: 0.5 to 5.0"),
        ("ratings.csv", with_rating("NaN"), "rating is nan in row 2; allowed: 0.5 to 5.0"),
        ("ratings.dat", "1::2::3\n", f"there are 3 columns; allowed: 4: {COLUMNS}"),
        ("u.data", "1\t2\t\t4\n", "rating is null in row 1; allowed: a number"),
    ],
)
def test_malformed_ratings_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    write(tmp_path, {name: content})
    with pytest.raises(EventFormatError) as error:
        prepare(tmp_path, tmp_path / "out")
    assert str(error.value) == f"file {tmp_path / name}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("movieId,name\n1,a\n", "title is missing; allowed: columns movieId, title, genres"),
        (
            "movieId,title,genres\nx,a,b\n",
            "row 1 is 'x::a::b'; allowed: <number>::<title>::<genre>|<genre>…",
        ),
    ],
)
def test_malformed_films_are_named(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, {**CSV, "movies.csv": content})
    with pytest.raises(EventFormatError) as error:
        prepare(tmp_path, tmp_path / "out")
    assert str(error.value) == f"file {tmp_path / 'movies.csv'}: {message}"


def test_flags_that_are_none_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {**RELEASES["ml-100k"], "u.item": "1|Toy Story\n"})
    with pytest.raises(EventFormatError, match=r"u\.item is unreadable: ") as error:
        prepare(tmp_path, tmp_path / "out")
    assert "\n" not in str(error.value)
