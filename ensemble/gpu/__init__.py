"""What the nodes compute with on a GPU; all of it but `cuda_memory.py` and graph capture runs on a CPU too."""
