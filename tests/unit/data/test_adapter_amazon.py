"""Amazon's sequences and reviews become purchases, each its own feedview."""

import gzip
import json
from pathlib import Path

import pytest

from unipinrec.data.adapters.amazon import downloads, prepare_amazon
from unipinrec.data.blended import BlendedConfig, BlendedDataset
from unipinrec.data.events import EventFormatError
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDataset, read_prepared

SEQUENCES = "1 20 10 30 20\n2 10 30\n"
ATTRIBUTES = '{"10": [7, 3], "20": [], "40": [5]}'


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")


def prepare(path: Path, out: Path) -> PreparedDataset:
    prepare_amazon(path, out, lambda _: None)
    return read_prepared(out)


def test_the_position_in_a_sequence_is_the_timestamp_and_every_event_a_feedview(tmp_path: Path) -> None:
    write(tmp_path, {"Beauty.txt": SEQUENCES, "Beauty_item2attributes.json": ATTRIBUTES})
    dataset = prepare(tmp_path, tmp_path / "out")
    assert dataset.events.select("user_id", "item_id", "actions", "timestamp", "feedview_id").rows() == [
        ("1", 20, 1, 0, 0),
        ("1", 10, 1, 1, 1),
        ("1", 30, 1, 2, 2),
        ("1", 20, 1, 3, 3),
        ("2", 10, 1, 0, 4),
        ("2", 30, 1, 1, 5),
    ]
    assert dataset.items.select("item_id", "title", "attributes").rows() == [
        (10, "10", [3, 7]),
        (20, "20", []),
        (30, "30", []),
        (40, "40", [5]),
    ]
    assert dataset.info.name == "amazon-beauty"
    assert dataset.info.actions == dataset.info.positive_actions == ("purchase",)
    assert dataset.info.sampled_impressions


def test_a_user_gives_a_history_and_a_later_feedview(tmp_path: Path) -> None:
    write(tmp_path, {"Beauty.txt": "1 20 10 30 20\n"})
    prepare(tmp_path / "Beauty.txt", tmp_path / "out")
    config = BlendedConfig(max_history=4, last_feedview_probability=1.0)
    example = BlendedDataset(InteractionDataset.load(tmp_path / "out"), config)[0]
    # Rows of 10, 20, 30 are 0, 1, 2. The last two purchases, 30 and 20, are held out.
    assert example.event_item_N.tolist() == [1]
    assert example.next_item == 0


def review(user: str, asin: str, time: int, overall: float = 5.0) -> str:
    return json.dumps({"reviewerID": user, "asin": asin, "unixReviewTime": time, "overall": overall})


def reviews(folder: Path, lines: list[str]) -> Path:
    file = folder / "reviews_Toys_and_Games_5.json.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return file


def test_reviews_are_ordered_by_day_and_then_as_in_the_file(tmp_path: Path) -> None:
    day = 86400
    file = reviews(
        tmp_path,
        [
            review("A2", "B000", 2 * day),
            review("A1", "B009", 3 * day, overall=1.0),
            review("A1", "B000", 3 * day),
            review("A1", "0001", day),
            review("A1", "B009", 3 * day),
        ],
    )
    dataset = prepare(file, tmp_path / "out")
    # 0001, B000 and B009 are items 1 to 3; the second review of B009 on one day is dropped.
    assert dataset.events.select("user_id", "item_id", "actions", "timestamp", "feedview_id").rows() == [
        ("A1", 1, 1, day, 0),
        ("A1", 3, 1, 3 * day, 1),
        ("A1", 2, 1, 3 * day, 2),
        ("A2", 2, 1, 2 * day, 3),
    ]
    assert dataset.items["title"].to_list() == ["0001", "B000", "B009"]
    assert dataset.info.name == "amazon-toys_and_games"
    assert dataset.info.tie_rule == "reviews of one user and time keep the order of the file"


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ("1 2 3\n4\n", "line 2 is '4'; allowed: user item item …"),
        ("1 2 x3\n", "line 1 is '1 2 x3'; allowed: user item item …"),
        ("1 -2 3\n", "line 1 is '1 -2 3'; allowed: user item item …"),
        ("1 2 3\n\n2\n", "line 3 is '2'; allowed: user item item …"),
        ("1 2\n2 3\n1 4\n", "user is 1 in lines 1 and 3; allowed: one line per user"),
    ],
)
def test_a_malformed_sequence_is_named(tmp_path: Path, sequences: str, message: str) -> None:
    write(tmp_path, {"Beauty.txt": sequences})
    with pytest.raises(EventFormatError) as error:
        prepare(tmp_path, tmp_path / "out")
    assert str(error.value) == f"file {tmp_path / 'Beauty.txt'}: {message}"


@pytest.mark.parametrize("attributes", ["[1, 2]", '{"a": [1]}', '{"10": ["red"]}', '{"10": 3}', '{"10": [1'])
def test_malformed_attributes_are_named(tmp_path: Path, attributes: str) -> None:
    write(tmp_path, {"Beauty.txt": SEQUENCES, "Beauty_item2attributes.json": attributes})
    with pytest.raises(EventFormatError) as error:
        prepare(tmp_path, tmp_path / "out")
    line = str(error.value)
    assert line == (
        f"file {tmp_path / 'Beauty_item2attributes.json'}: content is of another form; "
        'allowed: {"item": [attribute, …], …}, all of them numbers'
    )


@pytest.mark.parametrize(
    "line",
    [
        '{"asin": "B1", "unixReviewTime": 3}',
        review("A", "B", 3).replace("3", '"x"'),
        review("A", "B", 3).replace("3", "1e999"),
        review("A", "B", 3).replace("3", "-1"),
        review("A", "B", 3).replace('"A"', "null"),
        review("A", "B", 3).replace('"B"', "null"),
        review("", "B", 3),
        "[1]",
        "[" * 100_000,
        "{",
    ],
)
def test_a_malformed_review_is_named(tmp_path: Path, line: str) -> None:
    file = reviews(tmp_path, [review("A1", "B1", 1), line])
    with pytest.raises(EventFormatError) as error:
        prepare(file, tmp_path / "out")
    allowed = (
        "JSON with texts reviewerID and asin and the number unixReviewTime, "
        "or user_id, parent_asin and timestamp"
    )
    assert str(error.value) == f"file {file}: line 2 is {line[:60]!r}; allowed: {allowed}"


def test_blank_lines_and_a_byte_order_mark_are_no_data(tmp_path: Path) -> None:
    write(tmp_path, {"Beauty.txt": "\ufeff1 20 10\r\n\n2 10\n\n"})
    sequences = prepare(tmp_path / "Beauty.txt", tmp_path / "sequences").events
    assert sequences.select("user_id", "item_id").rows() == [("1", 20), ("1", 10), ("2", 10)]
    file = reviews(tmp_path, ["\ufeff" + review("A1", "B1", 1), "", "  ", review("A2", "B1", 1), "", ""])
    assert prepare(file, tmp_path / "reviews").events["user_id"].to_list() == ["A1", "A2"]


def test_a_file_without_a_review_is_named(tmp_path: Path) -> None:
    file = reviews(tmp_path, ["", ""])
    with pytest.raises(EventFormatError, match=rf"^file {file}: there is no review; allowed: 1 or more$"):
        prepare(file, tmp_path / "out")


def test_reviews_of_2023_are_ordered_by_millisecond(tmp_path: Path) -> None:
    def line(user: str, asin: str, parent: str, time_ms: int) -> str:
        fields = {"rating": 1.0, "title": "x", "asin": asin, "parent_asin": parent, "user_id": user}
        return json.dumps(fields | {"timestamp": time_ms, "verified_purchase": True})

    lines = [line("A1", "B2", "B0", 7002), line("A1", "B3", "B1", 7001), line("A2", "B4", "B1", 5)]
    (tmp_path / "All_Beauty.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "All_Beauty.jsonl").write_text("\n".join(lines))
    for file in ("All_Beauty.jsonl.gz", "plain"):
        dataset = prepare(tmp_path / file, tmp_path / f"out-{file}")
        # B0 and B1 are items 1 and 2.
        assert dataset.events.select("user_id", "item_id", "timestamp").rows() == [
            ("A1", 2, 7),
            ("A1", 1, 7),
            ("A2", 2, 0),
        ]
        assert dataset.info.name == "amazon-all_beauty"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reviews_Beauty_5.json.gz", "amazon-beauty"),
        ("reviews_Beauty_5 (1).json.gz", "amazon-beauty"),
        ("reviews_Beauty_5(2).json.gz", "amazon-beauty"),
        ("reviews_Home & Kitchen_5 - Copy.json.gz", "amazon-home-kitchen_5-copy"),
        ("reviews_été_5.json.gz", "amazon-t"),
    ],
)
def test_a_name_is_made_of_the_files(tmp_path: Path, name: str, expected: str) -> None:
    file = reviews(tmp_path, [review("A1", "B1", 1)]).rename(tmp_path / name)
    assert prepare(file, tmp_path / "out").info.name == expected


@pytest.mark.parametrize("flipped", range(20, 60, 4))
def test_a_damaged_review_file_is_named(tmp_path: Path, flipped: int) -> None:
    file = reviews(tmp_path, [review(f"A{n}", "B1", n) for n in range(100)])
    content = bytearray(file.read_bytes())
    content[flipped] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(EventFormatError, match=rf"^file {file}(: line| is unreadable: .)") as error:
        prepare(file, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_truncated_review_file_is_named(tmp_path: Path) -> None:
    file = reviews(tmp_path, [review(f"A{n}", "B1", n) for n in range(100)])
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(EventFormatError, match=rf"^file {file} is unreadable: .+$"):
        prepare(file, tmp_path / "out")


def test_a_folder_without_such_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        EventFormatError,
        match=r"has 0 files \*\.txt or reviews_\*\.json\.gz or .*; allowed: 1, or name the file",
    ):
        prepare(tmp_path, tmp_path / "out")


def test_both_files_of_a_category_are_downloaded() -> None:
    assert [download.url.rsplit("/", 1)[1] for download in downloads("Beauty")] == [
        "Beauty.txt",
        "Beauty_item2attributes.json",
    ]
