"""The second ranker: TransAct (arXiv 2306.00248) and TransAct V2 (arXiv 2506.02267)."""
