"""The model in plain PyTorch: configuration, data, training and evaluation. Never imports Triton."""
