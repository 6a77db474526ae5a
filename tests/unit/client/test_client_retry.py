"""Which failures are retried, how often, and never beyond the timeout."""

import asyncio
import time

import pytest
from unipinrec_client import (
    DeadlineExceededError,
    InvalidRequestError,
    RecommendError,
    RetryPolicy,
    UnavailableError,
)


class Failing:
    """Raises the given errors in turn, then returns "done"; records when and with what it was called."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.times = []
        self.seconds_left = []

    def __call__(self, seconds_left):
        self.times.append(time.monotonic())
        self.seconds_left.append(seconds_left)
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def call_async(self, seconds_left):
        return self(seconds_left)


def run(policy, attempt, timeout_s, asynchronous):
    if asynchronous:
        return asyncio.run(policy.call_async(attempt.call_async, timeout_s))
    return policy.call(attempt, timeout_s)


both = pytest.mark.parametrize("asynchronous", [False, True])
QUICK = RetryPolicy(attempts=3, initial_wait_s=0.02, max_wait_s=0.1)


@both
def test_two_unavailable_answers_are_ridden_out(asynchronous):
    attempt = Failing(UnavailableError("1"), UnavailableError("2"))
    assert run(QUICK, attempt, 5.0, asynchronous) == "done"
    first, second, third = attempt.times
    assert second - first >= 0.02
    assert third - second >= 0.04


@both
def test_the_last_failure_is_raised_after_all_attempts(asynchronous):
    attempt = Failing(*(UnavailableError(str(number)) for number in range(1, 9)))
    with pytest.raises(UnavailableError, match=r"^3$"):
        run(QUICK, attempt, 5.0, asynchronous)
    assert len(attempt.times) == 3


@both
@pytest.mark.parametrize("kind", [InvalidRequestError, DeadlineExceededError, RecommendError, KeyError])
def test_other_failures_are_raised_at_once(kind, asynchronous):
    attempt = Failing(kind("no"))
    with pytest.raises(kind):
        run(QUICK, attempt, 5.0, asynchronous)
    assert len(attempt.times) == 1


@both
def test_no_attempt_starts_after_the_timeout(asynchronous):
    patient = RetryPolicy(attempts=100, initial_wait_s=0.1, max_wait_s=0.1)
    attempt = Failing(*(UnavailableError("busy") for _ in range(100)))
    with pytest.raises(UnavailableError):
        run(patient, attempt, 0.35, asynchronous)
    # A fifth one would start after four waits of a tenth of a second.
    assert 2 <= len(attempt.times) <= 4


@both
def test_each_attempt_gets_what_is_left_of_the_timeout(asynchronous):
    attempt = Failing(UnavailableError("1"), UnavailableError("2"))
    run(QUICK, attempt, 5.0, asynchronous)
    first, second, third = attempt.seconds_left
    assert 4.9 < first <= 5.0
    assert second <= first - 0.02
    assert third <= second - 0.04


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts is 0; allowed: 1 and more"),
        ({"initial_wait_s": -1.0}, "initial_wait_s is -1.0; allowed: 0 to 1.0"),
        ({"initial_wait_s": 2.0}, "initial_wait_s is 2.0; allowed: 0 to 1.0"),
    ],
)
def test_a_policy_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RetryPolicy(**options)
