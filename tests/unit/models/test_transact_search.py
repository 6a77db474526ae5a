"""The nearest events against numpy's integers and float64, with equal scores, gaps and all lengths.

Shapes as in `unipinrec/models/transact/search.py`.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.synthetic_vectors import draw_clustered
from tests.support.kernel_cases import SearchCase, search_case
from unipinrec.models.transact import search
from unipinrec.models.transact.search import Nearest, nearest, nearest_plain, quantised, spans

LONGEST, CANDIDATES, COUNT = 16_000, 256, 64
IMPLEMENTATIONS = (nearest, nearest_plain)
ROUNDING = 2.0**-22
"""What two float32 scores of equal float64 scores differ by at most, as a share."""


def expected(case: SearchCase) -> tuple[NDArray[np.int64], list[int]]:
    """Events [C, K] and their number by the stated rule, from int64 dot products."""
    vector_VE, candidate_CE = (of.numpy().astype(np.int64) for of in (case.vector_VE, case.candidate_CE))

    event_CK = np.zeros((len(candidate_CE), case.count), np.int64)
    valid = []
    offset = case.candidate_offset_R1.tolist()
    for request, (begin, end) in enumerate(case.span_R2.tolist()):
        event_nE = vector_VE[case.row_N.numpy()[begin:end]]
        square_n = (event_nE**2).sum(1).astype(np.float32)
        with np.errstate(divide="ignore"):
            inverse_n = np.where(square_n > 0, np.float32(1) / np.sqrt(square_n), np.float32(0))
        for candidate in range(offset[request], offset[request + 1]):
            score_n = (event_nE @ candidate_CE[candidate]).astype(np.float32) * inverse_n
            best_k = np.lexsort((-np.arange(end - begin), -score_n))[: case.count]
            event_CK[candidate, : len(best_k)] = begin + best_k
            valid.append(len(best_k))
    return event_CK, valid


def assert_expected(found: Nearest, case: SearchCase) -> None:
    event_CK, valid = expected(case)
    assert found.event_CK.tolist() == event_CK.tolist()
    assert found.valid_C.tolist() == valid


def of_one_request(event_NE: Tensor, candidate_CE: Tensor, count: int = COUNT) -> SearchCase:
    ends = (torch.tensor([0, len(found)]) for found in (event_NE, candidate_CE))
    span, offset_R1 = ends
    return SearchCase(
        event_NE, torch.arange(len(event_NE)), span.unsqueeze(0), candidate_CE, offset_R1, count
    )


def float64_scores(case: SearchCase) -> Tensor:
    """Cosines [C, N], but for the candidate's norm, of a single request."""
    event_NE = case.vector_VE[case.row_N].double()
    return case.candidate_CE.double() @ event_NE.T / event_NE.norm(dim=1)


@pytest.fixture(params=[True, False], ids=["integers", "float32"])
def _products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of products; integers where this processor multiplies them exactly."""
    if not request.param:
        monkeypatch.setattr(search, "multiplies_integers", lambda: False)


@pytest.mark.usefixtures("_products")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_length_of_a_history(implementation: Callable[..., Nearest]) -> None:
    lengths = (0, 1, COUNT - 1, COUNT, COUNT + 1, LONGEST, 0, LONGEST - 7)
    case = search_case(lengths, (2, 1, 3, 2, 0, 70, 1, 2), COUNT, vectors=5000, gap=3)
    assert_expected(implementation(*case.tensors, COUNT), case)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(
    lengths=st.lists(st.integers(0, 400), min_size=1, max_size=4),
    candidates=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    count=st.integers(1, 12),
    vectors=st.integers(1, 60),
    largest=st.sampled_from((1, 2, 127)),
    width=st.sampled_from((1, 2, 8, 33)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_equal_scores_are_ordered_later_first(
    implementation: Callable[..., Nearest],
    lengths: list[int],
    candidates: list[int],
    count: int,
    vectors: int,
    largest: int,
    width: int,
    seed: int,
) -> None:
    case = search_case(
        lengths, candidates[: len(lengths)], count, width=width, vectors=vectors, largest=largest, seed=seed
    )
    assert_expected(implementation(*case.tensors, count), case)


def test_a_history_of_few_items() -> None:
    """Thousands of events share each score, far more than events are wanted."""
    case = search_case((LONGEST,), (CANDIDATES,), COUNT, vectors=7, largest=2)
    assert_expected(nearest(*case.tensors, COUNT), case)


def test_nothing_but_equal_events() -> None:
    case = of_one_request(torch.ones(5000, 32, dtype=torch.int8), -torch.ones(3, 32, dtype=torch.int8))
    latest_K = torch.arange(4999, 4999 - COUNT, -1)
    assert torch.equal(nearest(*case.tensors, COUNT).event_CK, latest_K.expand(3, -1))


@pytest.mark.usefixtures("_products")
def test_both_zeros_are_one_score() -> None:
    """A product of floats may be a negative zero, as 0 times -1 is."""
    sign_N1 = torch.tensor([[1], [-1]], dtype=torch.int8).repeat(100, 1)
    case = of_one_request(sign_N1, torch.zeros(3, 1, dtype=torch.int8), 5)
    for implementation in IMPLEMENTATIONS:
        assert implementation(*case.tensors, 5).event_CK.tolist() == [[199, 198, 197, 196, 195]] * 3


def test_a_zero_vector_scores_zero() -> None:
    event_NE = torch.tensor([[-1, 0], [0, 0], [0, 5], [2, 0], [0, 0]], dtype=torch.int8)
    case = of_one_request(event_NE, torch.tensor([[3, 0], [-3, 0]], dtype=torch.int8), 5)
    for implementation in IMPLEMENTATIONS:
        assert implementation(*case.tensors, 5).event_CK.tolist() == [[3, 4, 2, 1, 0], [0, 4, 2, 1, 3]]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_nearer_by_float64_is_left_out(seed: int) -> None:
    case = search_case((LONGEST,), (20,), COUNT, vectors=LONGEST, gap=0, seed=seed)
    score_CN = float64_scores(case).nan_to_num(0)
    event_CK = nearest(*case.tensors, COUNT).event_CK
    found_CK = score_CN.gather(1, event_CK)
    assert (found_CK.diff() <= ROUNDING * found_CK[:, 1:].abs()).all()
    left_CN = score_CN.scatter(1, event_CK, -torch.inf)
    worst_C = found_CK[:, -1]
    assert (left_CN.amax(1) - worst_C <= ROUNDING * worst_C.abs()).all()


def recall(vector_NE: Tensor, candidate_CE: Tensor) -> float:
    """The share of float32's nearest events that int8 finds."""
    case = of_one_request(quantised(vector_NE), quantised(candidate_CE))
    found_CK = nearest(*case.tensors, COUNT).event_CK
    right_CK = (candidate_CE @ vector_NE.T).topk(COUNT).indices
    return (found_CK[:, :, None] == right_CK[:, None]).any(-1).double().mean().item()


@pytest.mark.parametrize("seed", range(3))
def test_int8_finds_most_of_what_float32_finds(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    random = torch.nn.functional.normalize(torch.randn(LONGEST + CANDIDATES, 32, generator=draw))
    assert recall(random[:LONGEST], random[LONGEST:]) >= 0.98
    clustered = draw_clustered(LONGEST, CANDIDATES, 32, seed)
    assert recall(*map(torch.from_numpy, clustered)) >= 0.98


def test_vectors_become_bytes() -> None:
    vector = torch.tensor([0.65, -0.65, 0.66, -1.0, 0.0, 0.65 * 1.4 / 127, -0.65 * 1.6 / 127])
    assert quantised(vector).tolist() == [127, -127, 127, -127, 0, 1, -2]


def test_offsets_are_spans() -> None:
    assert spans(torch.tensor([0, 3, 3, 7])).tolist() == [[0, 3], [3, 3], [3, 7]]


def test_too_wide_vectors_are_refused() -> None:
    case = search_case((3,), (1,), 2, width=1041)
    with pytest.raises(ValueError, match="vectors are 1041 wide; allowed: 1 to 1040"):
        nearest(*case.tensors, 2)
