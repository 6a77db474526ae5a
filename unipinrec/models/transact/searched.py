"""Examples of a model that searches: slates, and the fixed vectors by which rows are near.

Shapes: V items, E width of the vectors they come from, W width of search vectors.
"""

import hashlib

from torch import Tensor

from unipinrec.data.interactions import InteractionDataset, Split
from unipinrec.models.transact.batch import NearestRows, RequestBatch
from unipinrec.models.transact.config import TransactV2Config
from unipinrec.models.transact.examples import SlateConfig, SlateExamples
from unipinrec.models.transact.nearest import nearest_rows
from unipinrec.models.transact.search import quantised


class SearchedExamples(SlateExamples):
    """Slates with int8 vectors of the whole catalogue.

    With `logged` they come with the rows that a search by these vectors found, as a serving system would log
    them (TransAct V2 §3.5); else each step of training searches. Both give the same loss.
    """

    def __init__(
        self,
        dataset: InteractionDataset,
        config: TransactV2Config,
        slates: SlateConfig,
        vector_VE: Tensor,
        split: Split | None = None,
        *,
        logged: bool = False,
    ) -> None:
        """Raise `ValueError` if the vectors are not those of the configuration's catalogue and width."""
        wanted = (config.num_items, config.search_dim)
        if tuple(vector_VE.shape) != wanted:
            raise ValueError(f"vectors have shape {tuple(vector_VE.shape)}; allowed: {wanted}")
        self.search_VW = quantised(vector_VE)

        def log_nearest(requests: RequestBatch) -> NearestRows:
            return nearest_rows(requests, self.search_VW, config)

        super().__init__(dataset, config, slates, split, nearest=log_nearest if logged else None)

    @property
    def sha256(self) -> dict[str, str]:
        """Return the hashes of the dataset's tables and of the vectors."""
        digest = hashlib.sha256(self.search_VW.contiguous().numpy().tobytes()).hexdigest()
        return super().sha256 | {"search_vectors": digest}
