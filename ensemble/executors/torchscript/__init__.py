"""What the nodes compute with on a CPU: the bundle's TorchScript graphs over exact lengths."""
