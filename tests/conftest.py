"""A bundle of a small catalogue, a store of its users' histories, and a real Triton server of both.

`pytest --profile gpu` serves with the configurations of that profile. A GPU then computes in float32, so that
the tests compare as closely as on a CPU; tests/gpu has those of what it serves in otherwise.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ensemble.graph import MODEL_REPOSITORY
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.loopback import serve_on_loopback
from ensemble.settings import ServingSettings
from ensemble.stores.dataset_histories import dataset_histories
from ensemble.stores.lmdb_store import LmdbHistoryStore
from export.bundle_writer import write_bundle
from unipinrec.bundle import UNIFIED
from unipinrec.data.events import DatasetInfo
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import write_prepared
from unipinrec.models.unified.config import UnifiedConfig, preset
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.training.checkpoint import latest_checkpoint, load_model, save_model

# Test files run side by side, each with one core.
torch.set_num_threads(1)
# Of nodes in this process, and of servers, so that tests can stand between their nodes.
os.environ.setdefault("UNIPINREC_SEAL_KEY", secrets.token_hex(32))

PROFILES = ("gpu",)
USERS, ITEMS, CLUSTERS = 320, 400, 8
ACTIONS = ("click", "save", "hide")
LEASE_MS = 4_000
SURFACES = ("home", "search")
NOW = 1_750_000_000
"""When requests are made: after every event."""
SERVED: dict[str, Any] = {"retrieval_steps": 3, "merge_cosine": 0.9, "report": lambda _: None}
"""How bundles are exported."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--profile", choices=PROFILES, help="serve with the configurations of this profile")


@pytest.fixture(scope="session")
def profile(request: pytest.FixtureRequest) -> str | None:
    """What `--profile` says."""
    name: str | None = request.config.getoption("--profile")
    return name


@dataclass(frozen=True)
class Exported:
    """What offline and served answers both come from."""

    dataset: InteractionDataset
    model: UnifiedRecommender
    bundle: Path
    histories: Path
    """The store of the dataset's histories. No test may write to it, nor open it twice in one process."""

    def with_second(self, checkpoint: Path, bundles: Path, policy_card: Path | None = None) -> Path:
        """Return the bundle of the model and of another beside it."""
        unified = latest_checkpoint(self.bundle.parents[1] / "checkpoints")
        assert unified is not None
        beside = {"beside": [checkpoint], "policy_card": policy_card}
        return write_bundle(unified, self.dataset, bundles, **beside, **SERVED)


def synthetic_events() -> pl.DataFrame:
    """Users who wander within clusters of items, with histories of 1 to 200 events."""
    draw = np.random.default_rng(5)
    columns: dict[str, list[object]] = {
        name: [] for name in ("user_id", "item_id", "actions", "surface", "timestamp", "feedview_id")
    }
    for user in range(USERS):
        length = int(draw.integers(1, 201))
        cluster = draw.integers(CLUSTERS)
        item = 1000 + 3 * (cluster * (ITEMS // CLUSTERS) + draw.integers(ITEMS // CLUSTERS, size=length))
        columns["user_id"] += [f"user-{user}"] * length
        columns["item_id"] += item.tolist()
        columns["actions"] += draw.integers(1, 2 ** len(ACTIONS), size=length).tolist()
        columns["surface"] += draw.integers(len(SURFACES), size=length).tolist()
        columns["timestamp"] += (1_700_000_000 + draw.integers(1, 5_000, size=length).cumsum()).tolist()
        columns["feedview_id"] += (np.arange(length) // 6).tolist()
    return pl.DataFrame(columns, schema_overrides={"surface": pl.Int32})


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    info = DatasetInfo(
        name="synthetic",
        actions=ACTIONS,
        surfaces=SURFACES,
        sampled_impressions=True,
        utility_weights=(1.0, 0.5, 0.0),
    )
    items = pl.DataFrame({"item_id": [1000 + 3 * row for row in range(ITEMS)]})
    items = items.with_columns(title=pl.format("item {}", "item_id"))
    write_prepared(folder / "data", synthetic_events(), items, info)
    dataset = InteractionDataset.load(folder / "data")
    sizes = preset("demo", num_items=ITEMS, num_actions=len(ACTIONS), num_surfaces=len(SURFACES))
    config = UnifiedConfig.model_validate(
        sizes.model_dump()
        | {"layers": 2, "width": 64, "heads": 2, "id_dim": 32, "item_dim": 32, "id_hashes": 2}
        | {"time_offsets_s": (0, 60)}
    )
    checkpoint = random_checkpoint(config, folder / "checkpoints", dataset)
    bundle = write_bundle(checkpoint, dataset, folder / "bundles", **SERVED)
    with LmdbHistoryStore(folder / "histories", writable=True) as store:
        store.replace_all(lambda: dataset_histories(dataset))
    return Exported(dataset, load_model(checkpoint), bundle, folder / "histories")


def random_checkpoint(
    config: UnifiedConfig, folder: Path, dataset: InteractionDataset, seed: int = 11
) -> Path:
    """Weights so large that scores of different items are far apart, without a training run."""
    torch.manual_seed(seed)
    model = UnifiedRecommender(config)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.24 if "ranking_head" in name else 0.15)
    return save_model(folder, UNIFIED, config, model, dataset.info.sha256)


@contextmanager
def serving(
    exported: Exported,
    log_path: Path,
    *,
    model_repository: Path = MODEL_REPOSITORY,
    baseline: bool = False,
    profile: str | None = None,
    **settings: Any,
) -> Iterator[EmbeddedServer]:
    """A real server on free ports, from its first answer on; `settings` are fields of `ServingSettings`."""
    # With few programs a server starts within the time of a test.
    chosen: dict[str, Any] = {
        "lease_ms": LEASE_MS,
        "gpu_precision": "float32",
        "gpu_compile": "dynamic",
        "log_level": "INFO",
    }
    chosen["catalogue"] = log_path.with_name("catalogue")
    with serve_on_loopback(
        ServingSettings(bundle=exported.bundle, histories=exported.histories, **(chosen | settings)),
        model_repository=model_repository,
        baseline=baseline,
        profile=profile,
        log_path=log_path,
    ) as server:
        yield server


@pytest.fixture(scope="session")
def server(
    exported: Exported, tmp_path_factory: pytest.TempPathFactory, profile: str | None
) -> Iterator[EmbeddedServer]:
    log_path = tmp_path_factory.mktemp("log") / "server.log"
    with serving(exported, log_path, profile=profile) as server:
        yield server
