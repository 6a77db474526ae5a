"""The policy as training and export take it."""

from unipinrec.models.policy.config import PolicyConfig, PolicyTraining
from unipinrec.models.policy.graphs import policy_exports
from unipinrec.models.policy.module import ValueNetwork
from unipinrec.models.policy.objective import PolicyObjective
from unipinrec.models.policy.offline import OfflinePolicy
from unipinrec.models.spec import ModelSpec

SPEC = ModelSpec(
    name="policy",
    config=PolicyConfig,
    training=PolicyTraining,
    make=ValueNetwork,
    objective=PolicyObjective.of,
    offline=OfflinePolicy,
    exports=policy_exports,
)
