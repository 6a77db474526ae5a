"""What the nodes compute with on a GPU; all but `cuda_memory.py` and the capture of graphs runs anywhere."""
