"""Answers are recorded as they came, and every difference beyond the tolerance is told."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from commands.app import app
from loadtest.answers import Answer, RecordedAnswer, compare, read_answers, write_answers
from loadtest.histories import UserHistory, write_histories
from tests.support.triton_servers import GrpcServer

USERS = [UserHistory(str(user), *(np.arange(user, user + 3) for _ in range(4))) for user in (5, 2**62, 7)]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["answers", *map(str, arguments)])


def recorded(items: Sequence[int], scores: Sequence[float], probability: float = 0.5) -> list[RecordedAnswer]:
    probability_KA = np.full((len(items), 2), probability, np.float32)
    return [RecordedAnswer(USERS[0], Answer(np.array(items), np.array(scores, np.float32), probability_KA))]


EARLIER = recorded([1, 2, 3], [0.9, 0.500001, 0.5])


@pytest.mark.parametrize(
    ("new", "same_order", "largest", "told"),
    [
        (EARLIER, 1, 0.0, None),
        (recorded([1, 2, 3], [0.9, 0.500004, 0.5]), 1, 3e-6, None),
        (recorded([1, 3, 2], [0.9, 0.500001, 0.5]), 0, 1e-6, None),
        (recorded([1, 2, 4], [0.9, 0.500001, 0.499999]), 0, 0.0, None),
        (recorded([2, 1, 3], [0.9, 0.500001, 0.5]), 0, 0.399999, "differs by 0.4; allowed: 1e-05"),
        (recorded([1, 2, 4], [0.9, 0.500001, 0.4]), 0, 0.0, "at the place of one whose score differs by 0.1"),
        (recorded([1, 2, 3], [0.9, 0.500001, 0.5], 0.6), 1, 0.1, "ACTION_PROBS differs by 0.1"),
        (recorded([1, 2, 3], [np.nan, 0.500001, 0.5]), 1, np.nan, "SCORES differs by nan"),
        (recorded([1, 2], [0.9, 0.500001]), 0, 0.0, "2 items; allowed: 3"),
    ],
)
def test_what_differs_by_more_than_the_tolerance_is_told(
    new: list[RecordedAnswer], same_order: int, largest: float, told: str | None
) -> None:
    found = compare(new, EARLIER, 1e-5)
    assert (found.answers, found.same_order) == (1, same_order)
    if not np.isnan(largest):
        assert found.largest_difference == pytest.approx(largest, abs=2e-7)
    if told is None:
        assert found.differences == ()
    else:
        assert found.differences[0].startswith("request 1, user 5: ")
        assert told in found.differences[0]


def test_recordings_of_other_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="request 2 differs"):
        compare([*EARLIER, *EARLIER], EARLIER, 1e-5)
    other = [RecordedAnswer(USERS[1], EARLIER[0].answer)]
    with pytest.raises(ValueError, match="request 1 differs"):
        compare(other, EARLIER, 1e-5)


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    answer = Answer(
        np.array([2**62]), np.array([1 / 3], np.float32), np.array([[1e-7, 2 / 3]], np.float32), "b"
    )
    write_answers(tmp_path / "answers.jsonl", [RecordedAnswer(USERS[1], answer)])
    (again,) = read_answers(tmp_path / "answers.jsonl")
    assert again.history.as_fields() == USERS[1].as_fields()
    for name in ("item_id_K", "score_K", "probability_KA"):
        assert getattr(again.answer, name).tolist() == getattr(answer, name).tolist()
        assert getattr(again.answer, name).dtype == getattr(answer, name).dtype
    assert again.answer.bundle_id == "b"


def test_answers_are_recorded_and_compared_by_command(tmp_path: Path) -> None:
    """A server of another version, with an output less and others more, is recorded too."""
    requests, first, second = (tmp_path / name for name in ("traffic.jsonl", "first.jsonl", "second.jsonl"))
    write_histories(requests, USERS)
    server = GrpcServer()
    assert run("record", requests, first, "--url", server.url, "--count", 2).exit_code == 0
    answers = read_answers(first)
    # The server answers with the user id as the item id, and one padded place.
    assert [one.answer.item_id_K.tolist() for one in answers] == [[5], [2**62]]
    assert [one.answer.bundle_id for one in answers] == ["bundle-1"] * 2
    sent = server.received[0]["inputs"]
    assert sent["HISTORY_ITEM_IDS"][1] == sent["HISTORY_SURFACES"][1] == [1, 3]
    assert not server.received[0]["outputs"]
    by_user = server.answer

    def other(user_id: bytes) -> dict[str, tuple[str, list[int], bytes]]:
        tensors = by_user(user_id) | {"MORE": ("FP32", [1, 1], struct.pack("<f", 1))}
        del tensors["RETRIEVED_BY"], tensors["BUNDLE_ID"]
        return tensors | {"SCORES": ("FP32", [1, 2], struct.pack("<2f", 0.7501, 0))}

    server.answer = other
    assert run("record", first, second, "--url", server.url).exit_code == 0
    server.stop()
    same = run("compare", first, first)
    assert (same.exit_code, same.stdout) == (
        0,
        "2 answers, 2 with the same items in the same order; largest difference 0\n",
    )
    different = run("compare", second, first)
    assert different.exit_code == 1
    assert different.stderr.startswith("request 1, user 5: SCORES differs by 0.0001")
    assert run("compare", second, first, "--tolerance", 0.001).exit_code == 0


def test_what_cannot_be_asked_or_read_is_told_in_one_line(tmp_path: Path) -> None:
    write_histories(tmp_path / "traffic.jsonl", USERS)
    for arguments in (
        ("record", tmp_path / "traffic.jsonl", tmp_path / "out", "--url", "127.0.0.1:9", "--timeout", 0.5),
        ("record", tmp_path / "absent", tmp_path / "out"),
        ("compare", tmp_path / "traffic.jsonl", tmp_path / "traffic.jsonl"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.count("\n") == 1
