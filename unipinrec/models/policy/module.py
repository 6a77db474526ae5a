"""Which rewards a request would bring under each arm (PRL-PUTS §3.2).

Shapes: B requests, N events, A actions, T numbers of a time, U user attributes, E item width, C token width,
S state width, K arms, D arm width, M rewards, R rows of requests and arms.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from unipinrec.arrays import Float64s
from unipinrec.models.common.embedder import ItemEmbedder
from unipinrec.models.common.trunk import Trunk
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.state import EVENT_TIMES, user_attributes

REWARDS = 2
BACKBONE_LAYERS = 3


class StateTensors(NamedTuple):
    """What `unipinrec.models.policy.state.inputs_of` makes, in its order."""

    item_row_BN: Tensor
    event_actions_BNA: Tensor
    event_surface_BN: Tensor
    event_time_BNT: Tensor
    is_event_BN: Tensor
    user_BU: Tensor
    context_BT: Tensor
    surface_B: Tensor

    @classmethod
    def of(cls, inputs: Mapping[str, object]) -> Self:
        """Return the arrays of a dictionary in their order as tensors."""
        return cls(*(torch.as_tensor(array) for array in inputs.values()))

    def to(self, device: torch.device) -> Self:
        """Return the tensors on a device."""
        return type(self)(*(tensor.to(device) for tensor in self))


class StateReader(nn.Module):
    """A request to its state vector: events through a transformer, averaged, and what else is known."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.event = nn.Linear(config.item_dim + config.num_actions + EVENT_TIMES, config.width)
        self.event_surface = nn.Embedding(config.num_surfaces, config.width)
        nn.init.normal_(self.event_surface.weight, std=0.02)
        self.trunk = Trunk(config)
        known = user_attributes(config) + 2 * len(config.time_periods_s) + config.num_surfaces
        self.num_surfaces = config.num_surfaces
        self.mix = nn.Sequential(
            nn.Linear(config.width + known, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.hidden)
        )

    def forward(self, state: StateTensors, vector_BNE: Tensor) -> Tensor:
        """Return state vectors [B, S] of requests and their events' item vectors; padding changes nothing."""
        joined = torch.cat([vector_BNE, state.event_actions_BNA, state.event_time_BNT], dim=-1)
        hidden_BNC, _ = self.trunk.history(self.event(joined) + self.event_surface(state.event_surface_BN))
        real_BN1 = state.is_event_BN.unsqueeze(-1).to(hidden_BNC.dtype)
        pooled_BC = (hidden_BNC * real_BN1).sum(1) / real_BN1.sum(1).clamp(min=1)
        place = torch.arange(self.num_surfaces, device=state.surface_B.device)
        surface_BP = (state.surface_B.unsqueeze(1) == place).to(pooled_BC.dtype)
        return self.mix(torch.cat([pooled_BC, state.user_BU, state.context_BT, surface_BP], dim=1))


class ValueHead(nn.Module):
    """State vectors and arms to expected rewards. An arm's place is an input: any weights in range work."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.arm = nn.Sequential(nn.Linear(2, config.arm_dim), nn.ReLU())
        widths = [config.hidden + config.arm_dim, *[config.hidden] * BACKBONE_LAYERS]
        layers = [
            [nn.BatchNorm1d(inputs), nn.Linear(inputs, config.hidden), nn.ReLU()] for inputs in widths[:-1]
        ]
        self.backbone = nn.Sequential(*(part for layer in layers for part in layer))
        self.heads = nn.Linear(config.hidden, REWARDS)

    @torch.no_grad()
    def start_at(self, mean_M: Float64s) -> None:
        """Let every prediction be near the mean reward at first."""
        self.heads.weight.mul_(0.1)
        self.heads.bias.copy_(torch.from_numpy(mean_M).clamp(1e-3, 1 - 1e-3).logit())

    def forward(self, state_RS: Tensor, place_R2: Tensor) -> Tensor:
        """Return expected rewards [R, M], from 0 to 1, of one arm for each state vector.

        While training, rows are normalised by one another, so they have to be those of logged arms.
        """
        hidden_RS = self.backbone(torch.cat([state_RS, self.arm(place_R2)], dim=1))
        return torch.sigmoid(self.heads(hidden_RS))

    def all_arms(self, state_BS: Tensor, place_K2: Tensor) -> Tensor:
        """Return expected rewards [B, K, M] of every arm for each state vector."""
        batch, arms = state_BS.size(0), place_K2.size(0)
        state_RS = state_BS.unsqueeze(1).expand(batch, arms, -1).flatten(0, 1)
        place_R2 = place_K2.unsqueeze(0).expand(batch, arms, -1).flatten(0, 1)
        return self(state_RS, place_R2).view(batch, arms, REWARDS)


class ValueNetwork(nn.Module):
    """The whole policy: its own item vectors, the state, the value of arms."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.embedder = ItemEmbedder(config)
        self.reader = StateReader(config)
        self.head = ValueHead(config)

    def forward(self, state: StateTensors, place_B2: Tensor) -> Tensor:
        """Return expected rewards [B, M] of one arm for each request."""
        row_V, place = torch.unique(state.item_row_BN, return_inverse=True)
        return self.head(self.reader(state, self.embedder(row_V)[place]), place_B2)


class PolicyGraph(nn.Module):
    """What is served: the network with the item vectors as a table."""

    def __init__(self, model: ValueNetwork) -> None:
        super().__init__()
        self.reader, self.head = model.reader, model.head
        self.vector_VE: Tensor = nn.Buffer(model.embedder.all_vectors())

    def forward(
        self,
        item_row: Tensor,
        event_actions: Tensor,
        event_surface: Tensor,
        event_time: Tensor,
        is_event: Tensor,
        user: Tensor,
        context: Tensor,
        surface: Tensor,
        arm_places: Tensor,
    ) -> Tensor:
        """Return expected rewards [B, K, M] of every arm for each request."""
        state = StateTensors(
            item_row, event_actions, event_surface, event_time, is_event, user, context, surface
        )
        vector_BNE = embedding(item_row.clamp(min=0), self.vector_VE)
        return self.head.all_arms(self.reader(state, vector_BNE), arm_places)
