"""MIND's slates become feedviews, after the clicks of the user's first slate."""

from pathlib import Path

import pytest

from unipinrec.data.adapters.mind import prepare_mind
from unipinrec.data.events import EventFormatError
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDataset, read_prepared

# 11/11/2019 9:05:58 AM and 12:00:01 PM and 11/12/2019 12:30:00 AM, UTC.
MORNING, NOON, NIGHT = 1_573_463_158, 1_573_473_601, 1_573_518_600
BEHAVIORS = (
    "1\tU9\t11/12/2019 12:30:00 AM\tN8 N7 N5 N1\tN3-0 N4-1\n"
    "2\tU9\t11/11/2019 9:05:58 AM\tN8 N7 N8\tN1-0 N2-1 N3-0\n"
    "3\tU10\t11/11/2019 12:00:01 PM\t\tN1-1\n"
)
ENTITY = '{{"Label": "{0}", "Type": "P", "WikidataId": "{0}", "Confidence": 1.0}}'
NEWS = (
    f'N1\tsport\tgolf\tThe "open\t\thttps://a\t[{ENTITY.format("Q2")}]\t[{ENTITY.format("Q10")}]\n'
    f"N2\tsport\ttennis\tA match\tAn abstract\thttps://b\t[]\t[{ENTITY.format('Q2')}]\n"
    "N6\tfood\tgolf\tUnseen\t\thttps://c\t\t[]\n"
)


def write(folder: Path, behaviors: str = BEHAVIORS, news: str = NEWS) -> None:
    (folder / "behaviors.tsv").write_text(behaviors, encoding="utf-8")
    (folder / "news.tsv").write_text(news, encoding="utf-8")


def prepare(path: Path, out: Path) -> PreparedDataset:
    prepare_mind(path, out, lambda _: None)
    return read_prepared(out)


def test_clicks_of_the_first_slates_history_precede_it_by_seconds(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = prepare(tmp_path, tmp_path / "out")
    assert dataset.events.select("user_id", "item_id", "actions", "timestamp", "feedview_id").rows() == [
        ("U10", 1, 1, NOON, 2),
        ("U9", 8, 1, MORNING - 3, None),
        ("U9", 7, 1, MORNING - 2, None),
        ("U9", 8, 1, MORNING - 1, None),
        ("U9", 1, 0, MORNING, 1),
        ("U9", 2, 1, MORNING, 1),
        ("U9", 3, 0, MORNING, 1),
        ("U9", 3, 0, NIGHT, 0),
        ("U9", 4, 1, NIGHT, 0),
    ]
    assert dataset.info.actions == ("click",)
    assert not dataset.info.sampled_impressions
    assert InteractionDataset.load(tmp_path / "out").feedviews.start_F.tolist() == [0, 3, 4]


def test_news_have_titles_and_attributes(tmp_path: Path) -> None:
    (tmp_path / "MINDsmall_train").mkdir()
    write(tmp_path / "MINDsmall_train")
    items = prepare(tmp_path, tmp_path / "out").items
    # 0 category=food, 1 category=sport, 2 entity=Q10, 3 entity=Q2, 4 subcategory=golf, 5 subcategory=tennis.
    assert items.select("item_id", "title", "attributes").rows() == [
        (1, 'The "open', [1, 2, 3, 4]),
        (2, "A match", [1, 3, 5]),
        (3, "3", []),
        (4, "4", []),
        (6, "Unseen", [0, 4]),
        (7, "7", []),
        (8, "8", []),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "9:05:58 AM",
            "9:05:58",
            "time is '11/11/2019 9:05:58' in row 2; allowed: times like 11/15/2019 8:55:",
        ),
        ("N8 N7 N8", "N8 7", "history is 'N8 7' in row 2; allowed: N<number> N<number> …"),
        ("N3-0 N4-1", "N3 N4", "impressions is 'N3 N4' in row 1; allowed: N<number>-<0 or 1> …"),
        ("N1-1\n", "\n", "impressions is null in row 3; allowed: N<number>-<0 or 1> …"),
        ("N3-0 N4-1", "N3-0 N4-2", "impressions is 'N3-0 N4-2' in row 1; allowed: N<number>-<0 or 1> …"),
        ("\tU10\t", "\t\t", "user_id is null in row 3; allowed: a value in every row"),
    ],
)
def test_a_malformed_slate_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert BEHAVIORS.count(old) == 1
    write(tmp_path, behaviors=BEHAVIORS.replace(old, new))
    with pytest.raises(EventFormatError) as error:
        prepare(tmp_path, tmp_path / "out")
    assert str(error.value).startswith(f"file {tmp_path / 'behaviors.tsv'}: {message}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("N6\tfood", "6\tfood", "id is '6' in row 3; allowed: N<number>"),
        (
            "\t\t[]\n",
            "\t[3]\t[]\n",
            "title_entities is '[3]' in row 3; allowed: JSON list of objects with Wik",
        ),
        (
            "\t\t[]\n",
            "\t[]\t[{]\n",
            "abstract_entities is '[{]' in row 3; allowed: JSON list of objects with ",
        ),
    ],
)
def test_malformed_news_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert NEWS.count(old) == 1
    write(tmp_path, news=NEWS.replace(old, new))
    with pytest.raises(EventFormatError) as error:
        prepare(tmp_path, tmp_path / "out")
    assert str(error.value).startswith(f"file {tmp_path / 'news.tsv'}: {message}")


def test_a_row_of_other_columns_is_named(tmp_path: Path) -> None:
    write(tmp_path, behaviors=BEHAVIORS + "4\tU1\t11/11/2019 9:05:58 AM\t\tN1-0\tmore\n")
    with pytest.raises(EventFormatError, match=r"behaviors\.tsv is unreadable: ") as error:
        prepare(tmp_path, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_blank_lines_and_a_byte_order_mark_are_no_data(tmp_path: Path) -> None:
    write(tmp_path)
    expected = prepare(tmp_path, tmp_path / "expected")
    write(tmp_path, "\ufeff" + BEHAVIORS + "\n\n", NEWS + "\n")
    assert prepare(tmp_path, tmp_path / "out").info.sha256 == expected.info.sha256


def test_slates_without_a_number_are_named(tmp_path: Path) -> None:
    columns = "impression_id, user_id, time, history, impressions"
    early = "".join(line.split("\t", 1)[1] for line in BEHAVIORS.splitlines(keepends=True))
    write(tmp_path, early)
    with pytest.raises(EventFormatError) as error:
        prepare(tmp_path, tmp_path / "out")
    file = tmp_path / "behaviors.tsv"
    assert str(error.value) == f"file {file}: there are 4 columns; allowed: 5: {columns}"


def test_missing_news_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "news.tsv").unlink()
    with pytest.raises(
        EventFormatError, match=r"has 0 files news\.tsv; allowed: 1, or name the file itself$"
    ):
        prepare(tmp_path, tmp_path / "out")
