"""The unified transformer: one trunk, one retrieval head, one ranking head."""

from unipinrec.model.unified import UnifiedRecommender

__all__ = ["UnifiedRecommender"]
