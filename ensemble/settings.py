"""What a deployment may choose about serving, read from the environment by the launcher and by every node."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ensemble.slot_storage import SHARED_MEMORY, Precision

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root, which relative paths in the environment start from."""

ENV_PREFIX = "UNIPINREC_"

Count = Annotated[int, Field(ge=1)]


class ServingSettings(BaseSettings):
    """Serving choices; each field is the environment variable `UNIPINREC_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, use_attribute_docstrings=True
    )

    bundle: Path = Path("build/bundles/current")
    """Bundle folder that the nodes load; a relative path starts at the repository's root."""
    runtime_dir: Path = SHARED_MEMORY / "unipinrec"
    """Folder of the KV pools on this machine. Shared memory keeps them mapped between processes and costs
    memory; the launcher appends its process id and a random part."""
    pool_slots: Count = 64
    """Users whose keys and values fit at once, in each retrieval instance. More slots keep more users warm
    and let more requests be under way, and cost 2 x layers x width x (max_history + 1) x bytes each."""
    kv_precision: Precision = "float32"
    """What keys and values are kept in: `float32` exactly as computed, `bfloat16` or `int8` rounded, for
    twice and nearly four times as many users in the same memory and a copy for each pass over them."""
    lease_ms: Count = 10_000
    """Milliseconds for which ranking may read a slot after retrieval filled it, unless it is done earlier.
    Longer leases survive longer queues; a request that is never ranked holds its slot back until then."""
    exclude_seen: bool = True
    """Leave the items of a user's history out of the results. Turn it off where repeats are welcome."""
    threads: Count = 1
    """Intra-operation threads of each node's process. More shorten a lone request and cost throughput as
    soon as the nodes' threads outnumber the cores."""
    max_events: Count = 8192
    """Events that an inline history may carry. Higher limits cost request bytes; the trunk reads the most
    recent `max_history` in any case."""
    max_exclude: Annotated[int, Field(ge=0)] = 1024
    """Items that a request may exclude. Each makes the index search look further."""

    exit_timeout_s: Count = 5
    """Seconds that a stop leaves to requests in flight; 5 more may go by until the server has ended. More let
    slower requests finish, and a node that hangs delays a stop by all of them."""
    triton_home: Path | None = None
    """Folder of a Triton installation, with bin/tritonserver and backends/python, as /opt/tritonserver in
    NVIDIA's container. Left out, the server inside the nvidia-pytriton wheel runs."""

    @field_validator("bundle", "runtime_dir", "triton_home")
    @classmethod
    def _from_root(cls, path: Path | None) -> Path | None:
        return path and ROOT / path.expanduser()

    def as_environment(self) -> dict[str, str]:
        """The variables from which a child process reads equal settings."""
        given = self.model_dump(exclude_none=True)
        return {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in given.items()}
