"""Alphas as serving configuration: followed at once, written whole, never lost to a bad file."""

import json
import logging
import math
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from ensemble.policy.alphas import KEPT, AlphaBook, CommandError, Revision
from tests.support.policy_cards import CHOSEN, policy_card
from unipinrec.models.policy.card import Alphas

Open = Callable[..., AlphaBook]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "alphas.json"


@pytest.fixture
def book_of(path: Path) -> Iterator[Open]:
    books: list[AlphaBook] = []

    def open_book(policy: str = "a") -> AlphaBook:
        books.append(AlphaBook(path, policy_card(policy)))
        return books[-1]

    yield open_book
    for book in books:
        book.close()


def told(book: AlphaBook) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(book)
    return {
        "".join([sample.name, *sample.labels.values()]): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_without_a_file_the_alphas_are_the_cards(book_of: Open, path: Path) -> None:
    current = book_of().current()
    assert (current.number, current.alphas, current.fingerprint) == (0, CHOSEN, "a" * 64)
    assert not path.parent.exists()


def test_a_revision_is_followed_by_every_book_of_the_file_and_outlives_them(book_of: Open) -> None:
    writer, other = book_of(), book_of()
    made = writer.set(Alphas(default=0.3), note="calmer")
    assert (made.number, made.alphas.of("core"), made.note) == (1, 0.3, "calmer")
    assert other.current() == writer.current() == book_of().current() == made
    later = other.set(Alphas(default=0.4, cohorts={"rest": 0.1}))
    assert writer.current() == later
    assert later.number == 2


def test_a_note_of_any_script_is_kept_where_python_writes_ascii(book_of: Open, path: Path) -> None:
    # As in Triton, whose Python takes the locale as it is.
    ascii_alone = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    code = (
        "import sys; from pathlib import Path; from ensemble.policy.alphas import AlphaBook, Alphas; "
        "from tests.support.policy_cards import policy_card; AlphaBook(Path(sys.argv[1]), policy_card())"
        ".set(Alphas(default=0.3), '\\u0447\\u2026')"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], env=os.environ | ascii_alone, check=True)
    assert book_of().current().note == "\u0447\u2026"


def test_a_rollback_is_a_revision_with_the_alphas_before(book_of: Open) -> None:
    book = book_of()
    book.set(Alphas(default=0.3))
    book.set(Alphas(default=0.4))
    back = book.rollback("worse")
    assert (back.number, back.alphas, back.note) == (3, Alphas(default=0.3), "worse")
    assert book.rollback().alphas == Alphas(default=0.4)


def test_the_first_revision_is_rolled_back_to_the_card(book_of: Open) -> None:
    book = book_of()
    with pytest.raises(CommandError, match=r"^revision is 0, the card's; allowed: "):
        book.rollback()
    book.set(Alphas(default=0.3))
    assert book.rollback().alphas == CHOSEN


def test_another_policy_begins_with_its_card_and_leaves_the_first_one_its_revision(book_of: Open) -> None:
    first, second = book_of("a"), book_of("b")
    first.set(Alphas(default=0.3))
    assert (second.current().number, second.current().alphas) == (0, CHOSEN)
    made = second.set(Alphas(default=0.9))
    assert made.number == 2
    assert first.current().alphas == book_of("a").current().alphas == Alphas(default=0.3)
    assert second.rollback().alphas == CHOSEN


def test_the_history_is_bounded_and_keeps_another_policys_last_revision(book_of: Open, path: Path) -> None:
    other = book_of("b").set(Alphas(default=0.9))
    book = book_of()
    for step in range(KEPT + 5):
        book.set(Alphas(default=step / 100))
    kept = [Revision.model_validate(revision) for revision in json.loads(path.read_text())["revisions"]]
    assert kept[0] == other
    assert [revision.number for revision in kept[1:]] == list(range(7, KEPT + 7))
    assert book_of("b").current() == other


@pytest.mark.parametrize("content", ["", "{", "[]", '{"revisions": []}', "x" * (1 << 21)])
def test_a_bad_file_leaves_the_last_good_alphas(
    book_of: Open, path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    book = book_of()
    good = book.set(Alphas(default=0.3))
    path.write_text(content)
    with caplog.at_level(logging.ERROR):
        assert [book.current() for _ in range(3)] == [good] * 3
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    assert told(book)["unipinrec_policy_alphas_unreadable_total"] == 1
    with pytest.raises(CommandError, match=r"is no list of revisions: .+; remove it$"):
        book.set(Alphas(default=0.6))
    path.unlink()
    assert book.current() == good
    assert book.set(Alphas(default=0.6)).number == 2


def test_a_file_that_is_mended_in_place_is_followed(book_of: Open, path: Path) -> None:
    book = book_of()
    book.set(Alphas(default=0.3))
    path.write_text(path.read_text().replace("0.3", "0.8"))
    os.utime(path, ns=(1, 1))
    assert book.current().alphas.default == 0.8


def test_wrong_alphas_are_refused_and_nothing_is_written(book_of: Open, path: Path) -> None:
    book = book_of()
    with pytest.raises(CommandError, match=r"^cohort is vip; allowed: core, casual, rest$"):
        book.set(Alphas(default=0.3, cohorts={"vip": 0.1}))
    with pytest.raises(CommandError, match=r"^note has 501 characters; allowed: up to 500$"):
        book.set(Alphas(default=0.3), note="x" * 501)
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    book = AlphaBook(blocked / "alphas.json", policy_card())
    with pytest.raises(CommandError, match=rf"^policy_alphas {blocked}/alphas.json cannot be written: "):
        book.set(Alphas(default=0.3))


def _write(path: Path, start: int, go: Event) -> None:
    assert go.wait(10)
    book = AlphaBook(path, policy_card())
    for step in range(10):
        alpha = (start + step) / 1000
        book.set(Alphas(default=alpha, cohorts={"core": alpha}))


def test_writers_of_several_processes_lose_nothing_and_readers_see_whole_revisions(
    book_of: Open, path: Path
) -> None:
    book, seen, done = book_of(), [], threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(book.current())

    fork = multiprocessing.get_context("fork")
    go = fork.Event()
    writers = [fork.Process(target=_write, args=(path, 100 * (1 + number), go)) for number in range(3)]
    for writer in writers:
        writer.start()
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    go.set()
    for writer in writers:
        writer.join()
    done.set()
    for reader in readers:
        reader.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    written = json.loads(path.read_text())["revisions"]
    assert [revision["number"] for revision in written] == list(range(1, 31))
    expected = {100 * number + step for number in (1, 2, 3) for step in range(10)}
    assert {round(1000 * revision["alphas"]["default"]) for revision in written} == expected
    by_number = {revision["number"]: revision["alphas"]["default"] for revision in written}
    assert len({revision.number for revision in seen}) > 1
    assert all(r.alphas.default == r.alphas.of("core") == by_number[r.number] for r in seen if r.number)
    assert book.current().number == 30
    assert told(book)["unipinrec_policy_alphas_unreadable_total"] == 0


def test_a_look_at_an_unchanged_file_does_not_open_it(book_of: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    book = book_of()
    made = book.set(Alphas(default=0.3))
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("opened"))
    assert book.current() is book.current()
    assert book.current() == made


def test_a_card_without_alphas_leaves_them_to_be_set_and_rolled_back(path: Path) -> None:
    book = AlphaBook(path, policy_card().model_copy(update={"chosen": None}))
    assert book.current().alphas is None
    assert math.isnan(told(book)["unipinrec_policy_alphacore"])
    book.set(Alphas(default=0.3))
    assert told(book)["unipinrec_policy_alphacore"] == 0.3
    back = book.rollback()
    assert (back.number, back.alphas) == (2, None)
    assert math.isnan(told(book)["unipinrec_policy_alphacore"])
    assert AlphaBook(path, policy_card()).current() == back
    book.close()


def test_metrics_tell_the_alpha_of_every_cohort_and_the_revision(book_of: Open) -> None:
    book = book_of()
    book.set(Alphas(default=0.3, cohorts={"casual": 0.1}))
    assert told(book) == {
        "unipinrec_policy_alphacore": 0.3,
        "unipinrec_policy_alphacasual": 0.1,
        "unipinrec_policy_alpharest": 0.3,
        "unipinrec_policy_revision": 1.0,
        "unipinrec_policy_alphas_unreadable_total": 0.0,
    }
