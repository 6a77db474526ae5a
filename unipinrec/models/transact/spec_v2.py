"""TransAct V2 as training and evaluation take it."""

from torch import Tensor

from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.spec import ModelSpec
from unipinrec.models.transact.config import TransactV2Config, TransactV2Training
from unipinrec.models.transact.examples import SlateConfig
from unipinrec.models.transact.module import TransActV2
from unipinrec.models.transact.objective import TransactV2Objective
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.transact.searched import SearchedExamples
from unipinrec.models.transact.served import second_ranker_exports


def searched_examples(
    interactions: InteractionDataset, config: TransactV2Config, seed: int, vector_VE: Tensor
) -> SearchedExamples:
    """Return the slates of a dataset, with the last two events of a user held out."""
    return SearchedExamples(interactions, config, SlateConfig(seed=seed), vector_VE)


SPEC = ModelSpec(
    name="transact-v2",
    config=TransactV2Config,
    training=TransactV2Training,
    make=TransActV2,
    examples_by_vectors=searched_examples,
    objective=TransactV2Objective.of,
    offline=OfflineSecondRanker,
    exports=second_ranker_exports,
)
