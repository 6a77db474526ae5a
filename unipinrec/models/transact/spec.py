"""TransAct as training and evaluation take it."""

from torch import Tensor

from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.spec import ModelSpec
from unipinrec.models.transact.config import SecondRankerConfig, TransactConfig, TransactTraining
from unipinrec.models.transact.examples import SlateConfig, SlateExamples
from unipinrec.models.transact.module import TransAct
from unipinrec.models.transact.objective import TransactObjective
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.transact.served import second_ranker_exports


def slate_examples(
    interactions: InteractionDataset, config: SecondRankerConfig, seed: int, vector_VE: Tensor | None = None
) -> SlateExamples:
    """Return the slates of a dataset, with the last two events of a user held out."""
    return SlateExamples(interactions, config, SlateConfig(seed=seed), vector_VE=vector_VE)


SPEC = ModelSpec(
    name="transact",
    config=TransactConfig,
    training=TransactTraining,
    make=TransAct,
    examples=slate_examples,
    examples_by_vectors=slate_examples,
    objective=TransactObjective.of,
    offline=OfflineSecondRanker,
    exports=second_ranker_exports,
)
