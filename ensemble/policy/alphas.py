"""The operating points of a policy as serving configuration: one file, which processes and replicas share."""

import fcntl
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from pydantic import Field, ValidationError

from unipinrec.config import Config
from unipinrec.models.policy.card import Alphas, PolicyCard

log = logging.getLogger(__name__)

KEPT = 50
"""Latest revisions that the file keeps of the policy that writes, and of all others together."""
LONGEST_NOTE = 500
LONGEST_LOCK_S = 2.0
LARGEST_FILE = 1 << 20
"""Bytes; what is larger is no file of revisions, and reading it would take the time of many requests."""


class CommandError(ValueError):
    """A command that is refused; the message names what is wrong, its value and what is allowed."""


class Revision(Config):
    """Alphas, in force until the next revision of the same policy."""

    number: Annotated[int, Field(ge=0)]
    """Counts the changes of the file; 0 are the alphas of a policy's card."""
    time: int
    """Unix seconds of the change."""
    alphas: Alphas | None
    """None: a guardrail of the card failed, and nobody has set others."""
    fingerprint: str
    """The policy that the alphas are for."""
    note: Annotated[str, Field(max_length=LONGEST_NOTE)] = ""


class Revisions(Config):
    """What the file holds."""

    revisions: Annotated[tuple[Revision, ...], Field(min_length=1)]
    """Oldest first."""


class AlphaBook:
    """The alphas of one policy: the latest revision of its fingerprint in the file, else those of its card.

    A policy goes on with its own revisions while replicas of another one write to the same file, as happens
    while a bundle is replaced. All methods may be called from several threads, and files be written by
    several processes. As a collector of Prometheus it tells the alphas and what befell the file.
    """

    def __init__(self, path: Path, card: PolicyCard) -> None:
        """Begin with the latest revision in `path`, where there is one."""
        self._path = path
        self._card = card
        self._first = Revision(number=0, time=0, alphas=card.chosen, fingerprint=card.fingerprint)
        self._current = self._first
        self._unreadable = 0
        self._following = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        # Stays open, so that no later file gets its inode number and is taken for it.
        self._read: BinaryIO | None = None
        self.current()

    def current(self) -> Revision:
        """Return the revision in force, at the cost of a look at the file's status unless it has changed. A
        file that cannot be read or has gone leaves the last good revision in force; it is logged and counted
        once."""
        if self._status() != self._stamp:
            with self._following:
                self._follow()
        return self._current

    def set(self, alphas: Alphas, note: str = "") -> Revision:
        """Write a revision, durably, and return it. Raises `CommandError` for a cohort that the policy does
        not have, a longer note, and a file that cannot be read or written."""
        check_cohorts(alphas, self._card)
        return self._append(lambda _: alphas, note)

    def rollback(self, note: str = "") -> Revision:
        """Write a revision with the alphas before those in force, and return it; a second rollback takes
        the first one back. Raises `CommandError` where the alphas are the card's, and as `set` does."""

        def before(own: list[Revision]) -> Alphas | None:
            if len(own) < 2:
                raise CommandError("revision is 0, the card's; allowed: to roll back from 1 and later ones")
            return own[-2].alphas

        return self._append(before, note)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as prometheus_client asks a collector for them."""
        current = self.current()
        alphas = current.alphas
        text = "Operating point of a cohort, from 0 for the first reward to 1 for the second; NaN without one"
        alpha = GaugeMetricFamily("unipinrec_policy_alpha", text, labels=["cohort"])
        for cohort in self._card.cohorts:
            # Without a sample, the server would go on telling the last one.
            alpha.add_metric([cohort], math.nan if alphas is None else alphas.of(cohort))
        yield alpha
        text = "Revision of the alphas in force, 0 for the card's"
        yield GaugeMetricFamily("unipinrec_policy_revision", text, current.number)
        text = "Times that the file of alphas could not be read"
        yield CounterMetricFamily("unipinrec_policy_alphas_unreadable", text, self._unreadable)

    def close(self) -> None:
        """Close the file; the book is of no use after."""
        if self._read is not None:
            self._read.close()

    def _status(self) -> tuple[int, ...] | None:
        """What differs whenever the file's content does; None without a file."""
        try:
            return _stamp(self._path.stat())
        except OSError:
            return None

    def _follow(self) -> None:
        self._stamp = self._status()
        try:
            file = self._path.open("rb")
            self._stamp = _stamp(os.fstat(file.fileno()))
            self.close()
            self._read = file
            self._current = self._own(_parse(file))[-1]
            log.info("alphas of revision %d are in force", self._current.number)
        except (OSError, ValueError) as error:
            self._unreadable += 1
            log.error(
                "policy_alphas %s cannot be read, revision %d stays: %s",
                self._path,
                self._current.number,
                error,
            )

    def _own(self, revisions: tuple[Revision, ...]) -> list[Revision]:
        return [self._first, *(r for r in revisions if r.fingerprint == self._card.fingerprint)]

    def _append(self, choose: Callable[[list[Revision]], Alphas | None], note: str) -> Revision:
        """Write the alphas that `choose` takes, given the revisions of this policy."""
        if len(note) > LONGEST_NOTE:
            raise CommandError(f"note has {len(note)} characters; allowed: up to {LONGEST_NOTE}")
        try:
            with self._writing():
                past = _load(self._path)
                own = self._own(past)
                added = Revision(
                    number=max([self._current.number, *(revision.number for revision in past)]) + 1,
                    time=int(time.time()),
                    alphas=choose(own),
                    fingerprint=self._card.fingerprint,
                    note=note,
                )
                others = [revision for revision in past if revision not in own]
                kept = [*others[-KEPT:], *[*own[1:], added][-KEPT:]]
                _replace(self._path, Revisions(revisions=tuple(sorted(kept, key=lambda r: r.number))))
        except OSError as error:
            raise CommandError(f"policy_alphas {self._path} cannot be written: {error.strerror}") from error
        self.current()
        return added

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep all other writers of the file out, of this process and others."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_name(f"{self._path.name}.lock").open("ab") as lock:
            until = time.monotonic() + LONGEST_LOCK_S
            while not _locked(lock):
                if time.monotonic() > until:
                    raise CommandError(f"{lock.name} is held by another writer for {LONGEST_LOCK_S:g} s")
                time.sleep(0.01)
            yield


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_cohorts(alphas: Alphas, card: PolicyCard) -> None:
    """Raises `CommandError` for a cohort that the policy does not have."""
    for cohort in alphas.cohorts:
        if cohort not in card.cohorts:
            raise CommandError(f"cohort is {cohort:.100}; allowed: {', '.join(card.cohorts)}")


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _parse(file: BinaryIO) -> tuple[Revision, ...]:
    """The revisions; raises `ValueError` for any other content."""
    content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it has over {LARGEST_FILE} bytes")
    return Revisions.model_validate_json(content).revisions


def _load(path: Path) -> tuple[Revision, ...]:
    try:
        with path.open("rb") as file:
            return _parse(file)
    except FileNotFoundError:
        return ()
    except ValueError as error:
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise CommandError(f"policy_alphas {path} is no list of revisions: {told}; remove it") from error


def _replace(path: Path, content: Revisions) -> None:
    """Put a file in the place of another at once, and on the disk before this returns."""
    made = path.with_name(f".{path.name}.new")
    with made.open("w", encoding="utf-8") as file:
        file.write(content.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
