"""The unified model as training, export and evaluation take it."""

from unipinrec.models.spec import ModelSpec, blended_examples
from unipinrec.models.unified.config import UnifiedConfig, UnifiedTraining
from unipinrec.models.unified.graphs import unified_exports
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.objective import UnifiedObjective
from unipinrec.models.unified.offline import OfflineRecommender

SPEC = ModelSpec(
    name="unified",
    config=UnifiedConfig,
    training=UnifiedTraining,
    make=UnifiedRecommender,
    examples=blended_examples,
    objective=UnifiedObjective.of,
    offline=OfflineRecommender,
    exports=unified_exports,
)
