"""Names of the graphs in the unified model's folder of a bundle."""

ENCODER = "encoder.pt"
RETRIEVAL_HEAD = "retrieval_head.pt"
RANKING_HEAD = "ranking_head.pt"
