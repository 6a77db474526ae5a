"""The unified model as training, export and evaluation take it."""

from unipinrec.models.common.history_objective import JointObjective
from unipinrec.models.config import JointTraining
from unipinrec.models.spec import ModelSpec, blended_examples
from unipinrec.models.unified.config import UnifiedConfig
from unipinrec.models.unified.graphs import unified_exports
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.offline import OfflineRecommender

SPEC = ModelSpec(
    name="unified",
    config=UnifiedConfig,
    training=JointTraining,
    make=UnifiedRecommender,
    examples=blended_examples,
    objective=JointObjective.of,
    offline=OfflineRecommender,
    exports=unified_exports,
)
