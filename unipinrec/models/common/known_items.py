"""What a dataset tells of its items. Apart from `catalogue.py`, since what serves reads no datasets."""

import torch
from torch import Tensor

from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.common.catalogue import Catalogue, id_slots
from unipinrec.models.config import ItemConfig


def known_items(dataset: InteractionDataset, config: ItemConfig, training_count_V: Tensor) -> Catalogue:
    """Return the items of a dataset; those without a training event are cold.

    What the configuration has no room for is left out: a model may ignore attributes or content.
    """
    return Catalogue(
        id_slots(torch.tensor(dataset.item_ids_V), config),
        torch.from_numpy(dataset.attributes_VX[:, : config.max_attributes]) + 1,
        torch.from_numpy(dataset.content_VF[:, : config.content_dim]),
        training_count_V == 0,
    )
