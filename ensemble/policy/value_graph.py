"""The value network of a bundle, run by ONNX Runtime: what each arm is worth for a request.

Shapes: B requests, K arms, A actions.
"""

from collections.abc import Sequence

import numpy as np
import onnxruntime

from ensemble.arrays import Floats
from ensemble.loaded_bundle import LoadedBundle
from ensemble.policy.request_channel import Question
from unipinrec.bundle import POLICY
from unipinrec.models.policy.card import PolicyCard
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.files import GRAPH
from unipinrec.models.policy.state import Windows, inputs_of, policy_state


class ValueGraph:
    """Computes on one thread: a request is small, and its neighbours on the cores are not."""

    def __init__(self, loaded: LoadedBundle, config: PolicyConfig, card: PolicyCard) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(loaded.folder / POLICY / GRAPH), options, providers=["CPUExecutionProvider"]
        )
        self._config = config
        self._place_K2 = card.arms.places().astype(np.float32)

    def windows(self, questions: Sequence[Question]) -> Windows:
        """Return the states of requests as rows."""
        return Windows.of_states(
            [
                policy_state(history, request_time, surface, self._config)
                for history, request_time, surface in questions
            ]
        )

    def values(self, windows: Windows) -> Floats:
        """Return the expected reward of every arm, [B, K, 2]."""
        inputs = {**inputs_of(windows, self._config), "arm_places": self._place_K2}
        value_BK2: Floats = self._session.run(["value"], inputs)[0]
        return value_BK2
