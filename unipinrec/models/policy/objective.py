"""What the value network minimises.

Shapes: B requests, M rewards.
"""

from dataclasses import replace
from typing import Self

import torch
from typing_extensions import override

from unipinrec.models.common.known_items import known_items
from unipinrec.models.common.objective import WHOLE, Losses, Objective, Share
from unipinrec.models.policy.config import PolicyTraining
from unipinrec.models.policy.examples import PolicyBatch, PolicyExamples
from unipinrec.models.policy.module import ValueNetwork


class PolicyObjective(Objective):
    """The sum over rewards of the mean squared error (PRL-PUTS §3.2)."""

    def __init__(self, model: ValueNetwork, rewards: tuple[str, ...]) -> None:
        super().__init__(model)
        self.rewards = rewards

    @classmethod
    def of(cls, model: ValueNetwork, _: PolicyTraining, examples: PolicyExamples) -> Self:
        """Tell the model what is known of items and how frequent rewards are, and return it with its loss.

        Items that have attributes or content are known by these alone, the others by their ids.
        """
        count_V = torch.from_numpy(examples.item_counts())
        known = known_items(examples.interactions, model.config, count_V)
        # Ids would tell users apart by what they met, and so small a log teaches those better than tastes.
        described_V = (known.attribute_VX > 0).any(1) | (known.content_VF != 0).any(1)
        model.embedder.describe(replace(known, cold_V=known.cold_V | described_V))
        model.head.start_at(examples.mean_rewards())
        return cls(model, examples.log.info.rewards)

    @override
    def forward(self, batch: PolicyBatch, share: Share = WHOLE) -> Losses:
        """Return the losses of a batch, by reward.

        Raises `ValueError` if several processes share it: batches are normalised as wholes.
        """
        if share.count > 1:
            raise ValueError(f"processes is {share.count}; allowed for a policy: 1")
        error_BM = self.model(batch.state, batch.place_B2).float() - batch.reward_BM
        loss_M = error_BM.square().mean(0)
        return Losses(loss_M.sum(), dict(zip(self.rewards, loss_M, strict=True)))
