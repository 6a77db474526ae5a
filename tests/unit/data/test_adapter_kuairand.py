"""KuaiRand's rows become impressions and multi-hot actions."""

from pathlib import Path

import pytest

from unipinrec.data.adapters.kuairand import prepare_kuairand
from unipinrec.data.events import EventFormatError
from unipinrec.data.prepared import PreparedDataset, read_prepared

HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
T = 1_650_000_000
ROWS = [
    # user, video, ms after T, click, like, follow, comment, forward, hate, long_view, profile_enter, tab
    (7, 30, 61_500, 0, 0, 0, 0, 0, 1, 0, 0, 1),
    (7, 10, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1),
    (7, 20, 500, 0, 0, 0, 0, 0, 0, 0, 0, 4),
    (7, 10, 900, 1, 1, 0, 0, 0, 0, 0, 0, 1),
    (7, 10, 122_500, 1, 1, 1, 1, 1, 0, 1, 1, 14),
    (11, 20, 400, 0, 0, 1, 0, 0, 0, 0, 0, 0),
]


def line(row: tuple[int, ...]) -> str:
    user, video, after, click, like, follow, comment, forward, hate, long_view, profile, tab = row
    time = 1000 * T + after
    return (
        f"{user},{video},20220415,1300,{time},{click},{like},{follow},{comment},{forward},{hate},{long_view},"
        f"1,2,3,4,{profile},0,{tab}\n"
    )


def write(folder: Path, name: str, content: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def prepare(path: Path, out: Path) -> PreparedDataset:
    prepare_kuairand(path, out, lambda _: None)
    return read_prepared(out)


def test_all_logs_of_a_folder_become_events(tmp_path: Path) -> None:
    write(tmp_path, "set/data/log_standard_1k.csv", HEADER + "".join(line(row) for row in ROWS[:3]))
    write(tmp_path, "set/data/log_random_1k.csv", HEADER + "".join(line(row) for row in ROWS[3:]))
    write(tmp_path, "set/data/user_features_1k.csv", "user_id\n7\n")
    dataset = prepare(tmp_path, tmp_path / "out")
    # click 1, long_view 2, like 4, follow 8, comment 16, forward 32, profile_enter 64, hate 128.
    # Video 10 came twice in the first second: the row 900 ms after T is dropped. 61 s later another slate.
    assert dataset.events.rows() == [
        ("11", 20, 8, 0, T, 3),
        ("7", 10, 3, 1, T, 0),
        ("7", 20, 0, 4, T, 0),
        ("7", 30, 128, 1, T + 61, 1),
        ("7", 10, 127, 14, T + 122, 2),
    ]
    info = dataset.info
    assert info.actions == (
        "click", "long_view", "like", "follow", "comment", "forward", "profile_enter", "hate",
    )  # fmt: skip
    assert info.positive_actions == info.actions[:-1]
    assert info.utility_weights == (1, 1, 1, 1, 1, 1, 1, 0)
    assert info.surfaces[0] == "tab-0"
    assert len(info.surfaces) == 15
    assert not info.sampled_impressions


def test_a_tab_separated_log_with_fewer_columns_has_fewer_actions(tmp_path: Path) -> None:
    log = write(
        tmp_path,
        "subset.tsv",
        "user_id\tvideo_id\thourmin\ttime_ms\tis_click\tis_hate\tlabel\ttimestamp\n"
        f"7\t10\t1\t{T}000\t1\t0\t1\t2022-04-15 05:20:00\n"
        f"7\t10\t1\t{T}000\t1\t0\t1\t2022-04-15 05:20:00\n"
        f"7\t20\t1\t{T}000\t0\t1\t0\t2022-04-15 05:20:00\n",
    )
    reported: list[str] = []
    prepare_kuairand(log, tmp_path / "out", reported.append)
    dataset = read_prepared(tmp_path / "out")
    assert dataset.events.rows() == [("7", 10, 1, 0, T, 0), ("7", 20, 2, 0, T, 0)]
    assert dataset.info.actions == ("click", "hate")
    assert dataset.info.positive_actions == ("click",)
    assert dataset.info.surfaces == ("default",)
    assert reported == [f"1 repeated rows left out, 2 rows written to {tmp_path / 'out'}"]


def test_side_features_of_shown_videos_become_attributes(tmp_path: Path) -> None:
    write(tmp_path, "log_1.csv", HEADER + "".join(line(row) for row in ROWS))
    write(
        tmp_path,
        "video_features_basic_1k.csv",
        "video_id,author_id,video_type,upload_dt,upload_type,video_duration,music_type,tag\n"
        '10,5,NORMAL,2022-04-10,Web,9999,9.0,"39,8"\n'
        "20,5,AD,2022-04-10,,30000.0,,\n"
        "40,6,NORMAL,2022-04-10,Web,9999,9.0,39\n",
    )
    dataset = prepare(tmp_path, tmp_path / "out")
    # 0 author=5, 1 duration=0 (below 10 s), 2 duration=2 (30 s), 3 music_type=9.0, 4 tag=39, 5 tag=8,
    # 6 upload_type=Web, 7 video_type=AD, 8 video_type=NORMAL. Video 40 was never shown.
    assert dataset.items.select("item_id", "attributes").rows() == [
        (10, [0, 1, 3, 4, 5, 6, 8]),
        (20, [0, 2, 7]),
        (30, []),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "video_id",
            "photo_id",
            "video_id is missing; allowed: columns user_id, video_id, time_ms, is_click",
        ),
        ("7,20", ",20", "user_id is null in row 3; allowed: a value in every row"),
        ("1300,1650000000500,0", "1300,1650000000500,2", "is_click is 2 in row 3; allowed: 0, 1"),
        (",0,4\n", ",0,15\n", "tab is 15 in row 3; allowed: 0 to 14"),
    ],
)
def test_a_malformed_log_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    content = HEADER + "".join(line(row) for row in ROWS)
    assert content.count(old) == 1
    log = write(tmp_path, "log_1.csv", content.replace(old, new))
    with pytest.raises(EventFormatError) as error:
        prepare(tmp_path, tmp_path / "out")
    assert str(error.value) == f"file {log}: {message}"


def test_text_instead_of_a_number_is_named(tmp_path: Path) -> None:
    log = write(tmp_path, "log_1.csv", HEADER + line(ROWS[0]).replace("20220415,1300,", "20220415,1300,x"))
    with pytest.raises(EventFormatError, match=rf"^file {log} is unreadable: .*time_ms") as error:
        prepare(log, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_logs_of_different_columns_are_named(tmp_path: Path) -> None:
    first = "user_id,video_id,time_ms,is_click"
    write(tmp_path, "log_1.csv", f"{first}\n1,2,3,1\n")
    other = write(tmp_path, "log_2.csv", f"{first},is_like\n1,2,3,1,1\n")
    with pytest.raises(EventFormatError) as error:
        prepare(tmp_path, tmp_path / "out")
    assert str(error.value) == (
        f"file {other} has columns user_id, video_id, time_ms, is_click, is_like; "
        "allowed: as in log_1.csv, user_id, video_id, time_ms, is_click"
    )


def test_missing_logs_and_too_many_features_are_named(tmp_path: Path) -> None:
    with pytest.raises(EventFormatError, match=r"has no file log_\*\.csv; allowed: 1 or more$"):
        prepare(tmp_path, tmp_path / "out")
    write(tmp_path, "log_1.csv", HEADER + line(ROWS[0]))
    for release in ("1k", "pure"):
        write(tmp_path, f"video_features_basic_{release}.csv", "video_id\n")
    with pytest.raises(EventFormatError, match=r"^there are 2 files .*; allowed: at most 1$"):
        prepare(tmp_path, tmp_path / "out")


def test_a_duration_that_is_no_number_is_named(tmp_path: Path) -> None:
    write(tmp_path, "log_1.csv", HEADER + line(ROWS[0]))
    features = write(
        tmp_path,
        "video_features_basic_1k.csv",
        "video_id,author_id,video_type,upload_type,video_duration,music_type,tag\n30,5,AD,Web,long,9.0,39\n",
    )
    with pytest.raises(EventFormatError, match=rf"^file {features} is unreadable: .*long"):
        prepare(tmp_path, tmp_path / "out")
