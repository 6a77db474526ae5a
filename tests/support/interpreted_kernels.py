"""Run the kernels on a CPU, as Triton's interpreter does where TRITON_INTERPRET=1 stands before the start:
`TRITON_INTERPRET=1 python -m tests.support.interpreted_kernels results.safetensors`.
"""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tests.support.kernel_cases import ENCODERS, SEARCHES, SHORTENED, SPARE, SearchCase
from unipinrec.models.transact.kernels.encoder import EncoderKernel
from unipinrec.models.transact.kernels.search import SearchKernel


def padded(case: SearchCase) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The case with a request of nothing and some candidates of nobody, which static shapes need."""
    return (
        case.vector_VE,
        case.row_N,
        F.pad(case.span_R2, (0, 0, 0, 1)),
        F.pad(case.candidate_CE, (0, 0, 0, SPARE), value=1),
        torch.cat([case.candidate_offset_R1, case.candidate_offset_R1[-1:]]),
    )


def search(case: SearchCase, events: int) -> dict[str, Tensor]:
    tensors = padded(case)
    kernel = SearchKernel(
        requests=len(tensors[2]),
        candidates=len(tensors[3]),
        events=events,
        count=case.count,
        device=torch.device("cpu"),
    )
    return kernel(*tensors)._asdict()


def main(out: str) -> None:
    found = {}
    for name, case in SEARCHES.items():
        found |= {f"{name} {part}": of for part, of in search(case, int(case.span_R2.diff().max())).items()}
    found |= {f"latest {part}": of for part, of in search(SEARCHES["lengths"], SHORTENED).items()}
    for name, sequences in ENCODERS.items():
        batch, tokens, _ = sequences.token_BNW.shape
        kernel = EncoderKernel(sequences.weights, batch, tokens)
        found[name] = kernel(sequences.token_BNW, sequences.length_B)
    save_file(found, out)


if __name__ == "__main__":
    main(sys.argv[1])
