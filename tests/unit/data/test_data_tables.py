"""Tables are read as people have them, by their very names, and what cannot be read is one line."""

import gzip
import os
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from unipinrec.data.events import EventFormatError
from unipinrec.data.tables import read_headless, read_parquet, read_table, read_text

TEXT = "user_id,item_id\nu1,10\nu2,11\n"
ROWS = [("u1", "10"), ("u2", "11")]


def refused(path: Path) -> str:
    with pytest.raises(EventFormatError) as error:
        read_table(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["log[1].csv", "log*.csv", "proj[a]/log.csv", "day=1/log?.csv"])
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_name_is_no_pattern(tmp_path: Path, name: str, ending: str) -> None:
    for decoy in ("log1", "logs", "proja"):
        (tmp_path / f"{decoy}{ending}").write_bytes(b"decoy\n")
    path = (tmp_path / name).with_suffix(ending)
    path.parent.mkdir(exist_ok=True)
    if ending == ".csv":
        path.write_text(TEXT)
    else:
        pl.DataFrame(ROWS, ["user_id", "item_id"], orient="row").write_parquet(path)
    assert read_table(path).rows() == ROWS
    assert read_table(path).columns == ["user_id", "item_id"]


@pytest.mark.parametrize(
    "name", ["a.csv", "A.CSV", "a.csv.gz", "a.CSV.GZ", "a.tsv", "a.tsv.gz", "a.parquet", "a.jsonl"]
)
def test_the_format_is_told_by_the_ending(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kind = name.lower()
    if kind.endswith(".parquet"):
        pl.DataFrame(ROWS, ["user_id", "item_id"], orient="row").write_parquet(path)
    elif kind.endswith(".jsonl"):
        lines = [f'{{"user_id": "{user}", "item_id": "{item}"}}\n' for user, item in ROWS]
        path.write_text("".join(lines))
    else:
        content = TEXT.replace(",", "\t").encode() if ".tsv" in kind else TEXT.encode()
        path.write_bytes(gzip.compress(content, mtime=0) if kind.endswith(".gz") else content)
    assert read_table(path).rows() == ROWS


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + TEXT,
        TEXT + "\n\n",
        TEXT.replace("\n", "\r\n") + "\r\n",
        "\n" + TEXT.replace("\nu2", "\n\n , \n   \nu2"),
        TEXT.replace("item_id", "item_id,,").replace("\nu", ",,\nu").replace(",,\n", "\n", 1),
    ],
    ids=["byte order mark", "blank lines", "carriage returns", "blank lines amid", "columns without a name"],
)
def test_what_editors_and_exports_leave_is_no_data(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(text.encode())
    assert read_table(path).select("user_id", "item_id").rows() == ROWS


def test_blank_lines_are_left_out_of_typed_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(TEXT + "\n  \n")
    assert read_text(path, types={"item_id": pl.Int64}).rows() == [(10,), (11,)]


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,user_id\nu1,10,zz\n")
    assert refused(path) == f"file {path}: column user_id occurs 2 times; allowed: once"


def test_parts_are_read_in_order_with_the_columns_of_their_folders(tmp_path: Path) -> None:
    folder = tmp_path / "log.parquet"
    for surface, item in (("1", 12), ("0", 10), ("a%2Fb", 13), ("__HIVE_DEFAULT_PARTITION__", 9)):
        part = folder / f"surface={surface}"
        part.mkdir(parents=True)
        pl.DataFrame({"item_id": [item]}).write_parquet(part / "part-00000.snappy.parquet")
        (part / ".part-00000.snappy.parquet.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").touch()
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "part-9.parquet").write_bytes(b"unfinished")
    assert read_table(folder).rows() == [(10, "0"), (12, "1"), (9, None), (13, "a/b")]


def test_parts_may_be_text(tmp_path: Path) -> None:
    (tmp_path / "part-1.csv").write_text(TEXT.replace("u", "v").replace("vser_id", "user_id"))
    (tmp_path / "part-0.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    assert read_table(tmp_path)["user_id"].to_list() == ["u1", "u2", "v1", "v2"]


def test_a_folder_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    endings = ".parquet, .csv, .csv.gz, .tsv, .tsv.gz, .jsonl"
    assert refused(tmp_path) == (
        f"folder {tmp_path} has no file whose name ends in {endings}; allowed: 1 or more"
    )
    (tmp_path / "a.csv").write_text(TEXT)
    (tmp_path / "b.csv").write_text("user_id\nu3\n")
    assert refused(tmp_path).startswith(f"file {tmp_path} is unreadable: ")


def broken_parquet(tmp_path: Path) -> Path:
    """A file of which one flipped bit makes polars panic: in its footer, where a few are tried."""
    path = tmp_path / "log.parquet"
    times = [datetime(2023, 11, 14, 22, 13, second) for second in (20, 25, 30)]
    pl.DataFrame({"user_id": ["u1", "u1", "u2"], "timestamp": times}).write_parquet(path)
    whole = path.read_bytes()
    for position in range(len(whole) - 160, len(whole) - 150):
        for bit in range(8):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            try:
                pl.read_parquet(path)
            except pl.exceptions.PanicException:
                return path
            except (pl.exceptions.PolarsError, OSError):
                pass
    pytest.fail("no flipped bit makes polars panic")


def test_a_panic_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = broken_parquet(tmp_path)
    capfd.readouterr()
    assert refused(path) == f"file {path} is unreadable: its content is damaged"
    assert capfd.readouterr().err == ""


def test_the_error_output_is_back_after_reading(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:

    path = tmp_path / "a.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(path)
    assert read_parquet(path).rows() == [(1,)]
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", b""),
        ("log.csv", b"a,b\n1,2,3\n"),
        ("log.csv", b"a,b\n\xe9,1\n"),
        ("log.csv", "a,b\n1,2\n".encode("utf-16")),
        ("log.csv.gz", b"no gzip"),
        ("log.csv.gz", gzip.compress(TEXT.encode() * 99, mtime=0)[:-20]),
        ("log.parquet", b"PAR1 no parquet PAR1"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refused(path).startswith(f"file {path} is unreadable: ")


def test_another_number_of_columns_is_refused_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "behaviors.tsv"
    path.write_text('1\t"2\n')
    assert read_headless(path, "\t", ("a", "b")).rows() == [("1", '"2')]
    with pytest.raises(EventFormatError) as error:
        read_headless(path, "\t", ("a", "b", "c"))
    assert str(error.value) == f"file {path}: there are 2 columns; allowed: 3: a, b, c"


def test_a_separator_may_have_two_characters(tmp_path: Path) -> None:
    path = tmp_path / "ratings.dat"
    path.write_text("1::2\n3::4\n\n")
    assert read_headless(path, "::", ("a", "b")).rows() == [("1", "2"), ("3", "4")]
