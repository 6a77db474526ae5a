"""TransAct V2 as training and evaluation take it."""

from unipinrec.models.spec import ModelSpec
from unipinrec.models.transact.config import TransactV2Config, TransactV2Training
from unipinrec.models.transact.module import TransActV2
from unipinrec.models.transact.objective import TransactV2Objective
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.transact.served import second_ranker_exports
from unipinrec.models.transact.spec import slate_examples

SPEC = ModelSpec(
    name="transact-v2",
    config=TransactV2Config,
    training=TransactV2Training,
    make=TransActV2,
    examples_by_vectors=slate_examples,
    objective=TransactV2Objective.of,
    offline=OfflineSecondRanker,
    exports=second_ranker_exports,
)
