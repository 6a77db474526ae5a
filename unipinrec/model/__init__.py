"""The unified transformer: one trunk, one retrieval head, one ranking head."""

from unipinrec.model.unified import UnifiedRecommender
from unipinrec.vector_math import settle

# Here, since no process computes anything before it has imported a model.
settle()

__all__ = ["UnifiedRecommender"]
