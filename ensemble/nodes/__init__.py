"""The nodes of the serving graph: what each checks, computes and answers. None imports Triton."""
