"""Which failures are retried, how often, and never beyond the timeout."""

import asyncio
import math
import time

import numpy as np
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
    assert len(attempt.times) == 3


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
    patient = RetryPolicy(attempts=100, initial_wait_s=0.1, max_wait_s=0.1, budget=math.inf)
    attempt = Failing(*(UnavailableError("busy") for _ in range(100)))
    with pytest.raises(UnavailableError):
        run(patient, attempt, 0.35, asynchronous)
    assert 2 <= len(attempt.times) < 100
    assert attempt.times[-1] - attempt.times[0] < 0.35


@both
def test_waits_are_drawn_anew_up_to_a_bound_that_doubles(asynchronous):
    policy = RetryPolicy(attempts=3, initial_wait_s=0.02, max_wait_s=0.03, budget=math.inf)
    waits = []
    for _ in range(20):
        attempt = Failing(UnavailableError("1"), UnavailableError("2"))
        run(policy, attempt, 5.0, asynchronous)
        first, second, third = attempt.times
        waits.append((second - first, third - second))
    # Whoever waits for a processor waits longer, so only the shortest are compared.
    shortest = np.sort(waits, axis=0)[:10]
    assert (shortest <= [0.02, 0.03]).all()
    assert len(np.unique(np.round(waits, 3))) > 10


@both
def test_a_retry_waits_until_the_server_expects_to_have_room(asynchronous):
    attempt = Failing(UnavailableError("9 users are ahead; retry after 0.12 s"))
    run(QUICK, attempt, 5.0, asynchronous)
    first, second = attempt.times
    assert second - first >= 0.12


@both
def test_no_retry_is_sent_that_the_server_would_refuse_until_after_the_timeout(asynchronous):
    attempt = Failing(UnavailableError("9 users are ahead; retry after 2.00 s"))
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="retry after 2"):
        run(QUICK, attempt, 0.5, asynchronous)
    assert len(attempt.times) == 1
    assert time.monotonic() - began < 0.5


@both
def test_a_client_retries_no_more_than_its_budget_and_a_share_of_its_answers(asynchronous):
    policy = RetryPolicy(attempts=3, initial_wait_s=0.0, max_wait_s=0.0, budget=4.0, budget_ratio=0.5)
    budget = policy.new_budget()

    def sent(*errors):
        attempt = Failing(*errors)
        try:
            if asynchronous:
                asyncio.run(policy.call_async(attempt.call_async, 5.0, budget))
            else:
                policy.call(attempt, 5.0, budget)
        except UnavailableError:
            pass
        return len(attempt.times)

    busy = [UnavailableError("busy")] * 3
    assert [sent(*busy) for _ in range(4)] == [3, 3, 1, 1]
    assert [sent() for _ in range(2)] == [1, 1]
    assert [sent(*busy) for _ in range(2)] == [2, 1]


@both
def test_each_attempt_gets_what_is_left_of_the_timeout(asynchronous):
    attempt = Failing(UnavailableError("1"), UnavailableError("2"))
    run(QUICK, attempt, 5.0, asynchronous)
    first, second, third = attempt.seconds_left
    assert 4.9 < first <= 5.0
    assert first > second > third


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts is 0; allowed: 1 and more"),
        ({"initial_wait_s": -1.0}, "initial_wait_s is -1.0; allowed: 0 to 1.0"),
        ({"initial_wait_s": 2.0}, "initial_wait_s is 2.0; allowed: 0 to 1.0"),
        ({"budget": -1.0}, "budget is -1.0; allowed: 0 and more"),
        ({"budget_ratio": 1.5}, "budget_ratio is 1.5; allowed: 0 to 1"),
    ],
)
def test_a_policy_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RetryPolicy(**options)
