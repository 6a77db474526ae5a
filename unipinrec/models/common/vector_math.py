"""Vector math that computes right from its first call on.

PyTorch hands vector functions to MKL, which settles the kernel of each in its first call. Where several
threads make that call together, one may compute its part with a kernel of low accuracy, wrong by up to
2e-4 (pytorch/pytorch#188792). In a node such a part would stay as a user's keys and values.
"""

import torch

FUNCTIONS = (
    *("acos", "asin", "atan", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "lgamma"),
    *("log", "log10", "log1p", "log2", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh"),
)
"""Every vector function of PyTorch that MKL may compute, whether a model uses it or an optimizer does."""


def warm_up() -> None:
    """Call each of `FUNCTIONS` once, in float32 and float64, in the calling thread alone.

    Importing `unipinrec.models.common` does so, and with it every process that trains, exports, serves or
    measures. It takes some milliseconds.
    """
    for dtype in (torch.float32, torch.float64):
        # So few numbers are never split among threads.
        argument = torch.full((16,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(argument)
