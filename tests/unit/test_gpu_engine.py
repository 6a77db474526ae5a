"""The GPU's engine, on a CPU without capture or compilation, against the CPU's engine and offline PyTorch."""

from collections.abc import Callable

import pytest

from tests.conftest import Exported
from tests.unit.node_chain import Chain, assert_same_answers, sources, stored, users_of_many_lengths

pytestmark = pytest.mark.usefixtures("one_thread")


def test_both_engines_answer_alike(
    make_gpu_chain: Callable[..., Chain], make_chain: Callable[..., Chain], exported: Exported
) -> None:
    request = stored(exported, users_of_many_lengths(exported)[:4])
    expected = make_chain()(request)
    chain = make_gpu_chain()
    for source in ("prefill", "prefix"):
        answers = chain(request)
        assert sources(answers) == [source] * 4
        assert_same_answers(answers, expected)
