"""The Triton server that `unipinrec serve` starts, watches and stops."""
