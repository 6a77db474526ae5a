"""What tritonclient and the transports below it raise becomes one family of errors."""

import socket

import pytest
from tritonclient.utils import InferenceServerException
from unipinrec_client import DeadlineExceededError, InvalidRequestError, RecommendError, UnavailableError
from unipinrec_client.errors import translate


@pytest.mark.parametrize(
    ("raw_status", "kind", "status"),
    [
        ("StatusCode.INVALID_ARGUMENT", InvalidRequestError, "INVALID_ARGUMENT"),
        ("StatusCode.UNAVAILABLE", UnavailableError, "UNAVAILABLE"),
        ("StatusCode.DEADLINE_EXCEEDED", DeadlineExceededError, "DEADLINE_EXCEEDED"),
        ("StatusCode.NOT_FOUND", RecommendError, "NOT_FOUND"),
        ("StatusCode.CANCELLED", RecommendError, "CANCELLED"),
        ("400", InvalidRequestError, "400"),
        ("503", UnavailableError, "503"),
        ("504", DeadlineExceededError, "504"),
        ("500", RecommendError, "500"),
        (None, RecommendError, None),
    ],
)
def test_a_servers_status_decides_the_kind(raw_status, kind, status):
    error = translate(InferenceServerException("Exceeds maximum queue size", raw_status))
    assert type(error) is kind
    assert error.status == status
    assert str(error) == "Exceeds maximum queue size"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ConnectionRefusedError(111, "Connection refused"), UnavailableError),
        (ConnectionResetError(104, "Connection reset by peer"), UnavailableError),
        (socket.gaierror(-2, "Name or service not known"), UnavailableError),
        (TimeoutError("timed out"), DeadlineExceededError),
        (ValueError("no such shape"), RecommendError),
    ],
)
def test_a_bare_exception_of_the_transport_keeps_its_text_and_has_no_status(raised, kind):
    error = translate(raised)
    assert type(error) is kind
    assert error.status is None
    assert str(raised) in str(error)


def test_an_exception_without_text_is_named():
    assert str(translate(TimeoutError())) == "no answer in time: TimeoutError"
