"""What `unipinrec bench gpu` measures on one GPU: ranking forwards, time outside kernels, served requests."""
