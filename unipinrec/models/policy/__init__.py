"""PRL-PUTS (arXiv 2605.16344): which utility weights a request gets, by a value network over its state.

`config`, `state`, `cohorts` and `card` do without PyTorch: server nodes read them.
"""
