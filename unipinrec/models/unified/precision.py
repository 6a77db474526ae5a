"""Which parts of a model compute in fewer bits when it serves on a GPU: bf16, FP8 as an option (UniPinRec).

Float32 stays where bits are scarce or few numbers are involved: item vectors; times, gaps and actions until
they are projected, since bfloat16 keeps 8 bits of a time of day; the retrieval head; the last sum of the
ranking head.
"""

from typing import Literal, TypeVar

import torch
from torch import nn

from unipinrec.models.common.float8 import check_float8, quantise_trunk
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.served import ServedModel

Lowered = Literal["bfloat16", "float8"]
"""`float8` is bfloat16 but for the trunk's linear layers, whose weights and inputs are E4M3."""


Model = TypeVar("Model", UnifiedRecommender, ServedModel)


def lower_precision(model: Model, precision: Lowered) -> Model:
    """Convert a float32 model for inference, in place, and return it.

    Token projection and embeddings, the trunk and the inner layer of the ranking head become bfloat16, and so
    do keys, values and hidden states. Item vectors go in, and query embeddings and logits come out, in
    float32. Graphs that were made of the model change with it.

    Raises `ValueError` for `float8` if the model's device has no such units, or a layer's size is no multiple
    of 16.
    """
    model.requires_grad_(False)
    if precision == "float8":
        check_float8(model.tokenizer.bos.device)
        # First: from float32, so that weights are rounded once.
        quantise_trunk(model.trunk)
    for module in model.trunk.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.bfloat16()
    tokenizer = model.tokenizer
    for module in (tokenizer.project, tokenizer.surface, tokenizer.position, model.ranking_head.inner):
        module.bfloat16()
    for token in (tokenizer.bos, tokenizer.candidate_position):
        token.data = token.data.to(torch.bfloat16)
    return model
