"""Rank by a small TransAct V2 with its kernels on a CPU, as Triton's interpreter runs them where
TRITON_INTERPRET=1 stands before the start: `python -m tests.support.interpreted_ranker results.safetensors`.
"""

import sys

import torch
from safetensors.torch import save_file

from ensemble.executors.cuda.ranker_kernels import kernels_for
from ensemble.executors.cuda.ranker_shapes import RankingShapes
from ensemble.executors.cuda.second_ranker import GpuSecondRanker
from tests.support.ranked_shapes import candidates_of, random_model, requests_of
from unipinrec.models.transact.module import TransAct, TransActV2

LENGTHS = ((0, 0), (1, 30), (30, 2))
COUNTS = (1, 2, 3)


def small_model() -> TransAct | TransActV2:
    """Return one whose encoder has a kernel, and whose search vectors are narrower than any kernel's."""
    return random_model("transact-v2", item_dim=16, feedforward=16, max_events=40)


def main(out: str) -> None:
    cpu, model = torch.device("cpu"), small_model()
    kernels = kernels_for(model, cpu, torch.float32)
    shapes = RankingShapes(max_rows=40, max_candidates=4, batches=(3,), most=7)
    ranker = GpuSecondRanker(model, cpu, kernels, shapes=shapes)
    found = ranker.action_probabilities(requests_of(LENGTHS), candidates_of(COUNTS))
    save_file({f"{place}": torch.from_numpy(found_KA) for place, found_KA in enumerate(found)}, out)


if __name__ == "__main__":
    main(sys.argv[1])
