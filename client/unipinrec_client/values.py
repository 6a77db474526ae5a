"""What the fields of a request may hold. Numpy and tritonclient would convert much else without a word."""

from collections.abc import Iterable, Mapping, Set
from typing import Any, TypeVar

import numpy as np

from unipinrec_client.types import Event, UserId

Request = TypeVar("Request")

_LONGEST_SHOWN = 100

_INTEGERS = (int, np.integer)
_NUMBERS = (int, float, np.integer, np.floating)
_BOOLEANS = (bool, np.bool_)
_TEXTS = (str, bytes, bytearray, memoryview)


def checked_requests(requests: Iterable[Request], kind: type[Request]) -> tuple[Request, ...]:
    """Return the requests of one kind; raise `ValueError` for none, and for anything else."""
    found = tuple(requests)
    if not found:
        raise ValueError("requests is empty; allowed: 1 and more")
    for index, request in enumerate(found):
        if not isinstance(request, kind):
            raise ValueError(f"requests[{index}] is {_shown(request)}; allowed: {kind.__name__}")
    return found


def user_id_bytes(user_id: UserId) -> bytes:
    """Return a user id as it is sent: text as UTF-8, an integer as its decimal text. Raises `ValueError` for
    anything else, and for text that has no UTF-8 form."""
    if isinstance(user_id, bytes):
        return bytes(user_id)
    if isinstance(user_id, _INTEGERS) and not isinstance(user_id, _BOOLEANS):
        return str(int(user_id)).encode()
    if isinstance(user_id, str):
        try:
            return user_id.encode()
        except UnicodeEncodeError:
            raise ValueError(f"user_id is {_shown(user_id)}; allowed: text with a UTF-8 form") from None
    raise ValueError(f"user_id is {_shown(user_id)}; allowed: text, bytes or an integer")


def event_id_bytes(event_id: str) -> bytes:
    """Return an event id as it is sent; raise `ValueError` for what is no text, or has no UTF-8 form."""
    try:
        return event_id.encode()
    except (AttributeError, UnicodeEncodeError):
        raise ValueError(f"event_id is {_shown(event_id)}; allowed: text with a UTF-8 form") from None


def checked_events(name: str, given: Any) -> list[Event]:
    """Return the events; raise `ValueError` with `name` for what is not a sequence of `Event`."""
    if isinstance(given, Set) or not _is_row(given):
        orelse = ", or None" if name == "history" else ""
        raise ValueError(f"{name} is {_shown(given)}; allowed: a sequence of Event, oldest first{orelse}")
    events = list(given)
    for index, event in enumerate(events):
        if not isinstance(event, Event):
            raise ValueError(f"{name}[{index}] is {_shown(event)}; allowed: an Event")
    return events


def checked_integers(name: str, values: Any) -> list[Any]:
    """Return the integers of any collection; raise `ValueError` with `name` for what has no 64-bit form."""
    smallest, largest = -(2**63), 2**63 - 1
    allowed = f"integers from {smallest} to {largest}"
    if not _is_row(values):
        raise ValueError(f"{name} is {_shown(values)}; allowed: a collection of {allowed}")
    found = list(values)
    for value in found:
        # numpy would cut fractions off and wrap large values around.
        if (
            not isinstance(value, _INTEGERS)
            or isinstance(value, _BOOLEANS)
            or not smallest <= value <= largest
        ):
            raise ValueError(f"{name} is {_shown(value)}; allowed: {allowed}")
    return found


def checked_weights(name: str, weights: Any) -> list[float]:
    """Return the numbers of an ordered collection; raise `ValueError` with `name` for anything else."""
    if isinstance(weights, Set) or not _is_row(weights):
        raise ValueError(f"{name} is {_shown(weights)}; allowed: a sequence of numbers, one per action")
    found = list(weights)
    limit = float(np.finfo(np.float32).max)
    for weight in found:
        is_number = isinstance(weight, _NUMBERS) and not isinstance(weight, _BOOLEANS)
        # What is infinite or no number is for the server to judge; what would become so here is not.
        if not is_number or limit < abs(weight) < np.inf:
            raise ValueError(f"{name} is {_shown(weight)}; allowed: numbers from {-limit} to {limit}")
    return [float(weight) for weight in found]


def _is_row(values: Any) -> bool:
    """Whether its items are values, which those of text and of mappings are not."""
    has_items = isinstance(values, Iterable) and getattr(values, "ndim", 1) > 0
    return has_items and not isinstance(values, (*_TEXTS, Mapping))


def _shown(value: Any) -> str:
    line = " ".join(repr(value).split())
    return line if len(line) <= _LONGEST_SHOWN else f"{line[:_LONGEST_SHOWN]}…"
