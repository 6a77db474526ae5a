"""The unified transformer: one trunk, one retrieval head, one ranking head."""

from unipinrec.models.unified.module import UnifiedRecommender

__all__ = ["UnifiedRecommender"]
