"""Linear layers whose products run on 8-bit floating-point matrix units (E4M3), for inference alone.

Shapes: ... any leading axes, R rows, I inputs, O outputs.
"""

from typing import Self

import torch
from torch import Tensor, nn

from unipinrec.models.common.trunk import Trunk

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
"""448: E4M3 has 4 bits of exponent and 3 of fraction, and no infinity (Micikevicius et al., FP8 Formats for
Deep Learning, arXiv 2209.05433)."""

LEAST_SCALE = 1e-12
"""So that a row of zeros divides. A row whose largest number is below 448 times this keeps fewer bits."""

SIZE_STEP = 16
"""Matrix units take inputs and outputs in multiples of this."""

LEAST_CAPABILITY = (8, 9)
"""The first NVIDIA generation (Ada) with 8-bit floating-point matrix units."""

LAYERS = ("qkv", "output", "feedforward.0", "feedforward.2")
"""The linear layers of a `Block`."""


class Float8Linear(nn.Module):
    """A linear layer with 8-bit weights and inputs. Its weights and inputs are each scaled row by row.

    Weights have one float32 scale for each output, made once. An input row has one of its own, made from that
    row as it comes, so that what a row is rounded to never depends on what else is in the batch; nor does the
    result, as far as the matrix product sums each row in the same order whatever the number of rows.

    Its numbers are buffers. Converting the module to another dtype as a whole would destroy them.
    """

    def __init__(self, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor) -> None:
        super().__init__()
        self.weight_OI: Tensor = nn.Buffer(weight_OI)
        self.scale_O: Tensor = nn.Buffer(scale_O)
        self.bias_O: Tensor = nn.Buffer(bias_O)

    @classmethod
    @torch.no_grad()
    def of(cls, linear: nn.Linear, dtype: torch.dtype = torch.bfloat16) -> Self:
        """Return `linear` quantised; inputs, outputs and bias have `dtype`, which on CUDA is bfloat16.

        Raises `ValueError` if the layer has no bias, or a size is no multiple of `SIZE_STEP`.
        """
        if linear.bias is None:
            raise ValueError("bias is None; allowed: a linear layer with a bias")
        for name, size in (("in_features", linear.in_features), ("out_features", linear.out_features)):
            if size % SIZE_STEP:
                raise ValueError(f"{name} is {size}; allowed: multiples of {SIZE_STEP}")
        weight_OI, scale_O1 = quantise(linear.weight)
        return cls(weight_OI, scale_O1.squeeze(1), linear.bias.detach().to(dtype))

    def forward(self, features: Tensor) -> Tensor:
        """Turn features [..., I] into outputs [..., O] of the same dtype."""
        return self.part(features, 0, self.weight_OI.size(0))

    def part(self, features: Tensor, begin: int, end: int) -> Tensor:
        """Turn features [..., I] into outputs `begin` to `end - 1`, [..., end - begin]; copies no weights."""
        input_RI, scale_R1 = quantise(features.reshape(-1, features.size(-1)).contiguous())
        # torch.nn.functional.scaled_mm computes the same, but Inductor of torch 2.11 has no lowering of it.
        output_RO = torch._scaled_mm(
            input_RI,
            self.weight_OI[begin:end].t(),
            scale_a=scale_R1,
            scale_b=self.scale_O[begin:end].unsqueeze(0),
            bias=self.bias_O[begin:end],
            out_dtype=features.dtype,
        )
        return output_RO.view(*features.shape[:-1], end - begin)


def quantise(row_RI: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows [R, I] as E4M3 numbers [R, I] and float32 scales [R, 1], whose product is close to them.

    The largest number of a row becomes 448. Numbers below 2^-10 / 448 of it become 0.
    """
    scale_R1 = (row_RI.abs().amax(-1, keepdim=True).float() / LARGEST).clamp(min=LEAST_SCALE)
    # No clamp: division may overshoot 448 by its own rounding alone, and E4M3 rounds that back to 448.
    return (row_RI.float() / scale_R1).to(FLOAT8), scale_R1


def quantise_trunk(trunk: Trunk, dtype: torch.dtype = torch.bfloat16) -> Trunk:
    """Replace the linear layers of every block by their `Float8Linear` of `dtype`, in place.

    Norms keep their dtype. Returns the trunk.

    Raises `ValueError` as `Float8Linear.of` does, and if the trunk is quantised already.
    """
    for block in trunk.blocks:
        for name in LAYERS:
            linear = block.get_submodule(name)
            if not isinstance(linear, nn.Linear):
                raise ValueError(f"{name} is a {type(linear).__name__}; allowed: a Linear")
            block.set_submodule(name, Float8Linear.of(linear, dtype))
    return trunk


def check_float8(device: torch.device) -> None:
    """Refuse a device without 8-bit floating-point matrix units. A CPU has none either, but emulates them.

    Raises `ValueError` if the device is neither a CPU nor a CUDA device of at least `LEAST_CAPABILITY`.
    """
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device}; allowed for float8: cpu, cuda")
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < LEAST_CAPABILITY:
            found, least = (".".join(map(str, version)) for version in (capability, LEAST_CAPABILITY))
            raise ValueError(
                f"compute capability of {device} is {found}; allowed for float8: {least} and above"
            )
