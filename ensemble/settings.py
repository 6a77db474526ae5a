"""What a deployment may choose about serving, read from the environment by the launcher and by every node."""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from unipinrec.config import HIDDEN

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root, which relative paths in the environment start from."""

ENV_PREFIX = "UNIPINREC_"

SECRETS = ("admin_key", "seal_key", "histories_url", "index_token")
"""Settings that no log and no command line may have."""

URL_SCHEMES = ("redis", "rediss", "unix")
URL_OPTIONS = ("db", "password", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Of `histories_url`: none with which a server's certificate would not be checked."""

SHARED_MEMORY = Path("/dev", "shm")

Precision = Literal["float32", "bfloat16", "int8"]
"""What a server may keep keys and values in."""

Count = Annotated[int, Field(ge=1)]

BUNDLE, RUNTIME_DIR = "bundle", "runtime_dir"
"""Settings that a node's own configuration has, since a server may hold two bundles at once."""
NODE = "node"
"""Parameter of the same: what the node is called in metrics and logs, whichever bundle it serves."""


class ServingSettings(BaseSettings):
    """Serving choices; each field is the environment variable `UNIPINREC_<FIELD>`."""

    # An empty variable, as compose files pass one that nobody has set, is none.
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        use_attribute_docstrings=True,
        # What is refused may be a secret.
        hide_input_in_errors=True,
    )

    bundle: Path = Path("build/bundles/current")
    """Bundle folder that the nodes load; a relative path starts at the repository's root."""
    histories: Path = Path("build/stores/histories")
    """Store of the users' histories; a relative path starts at the repository's root. Where nothing is, users
    who send no history are served as new ones."""
    histories_url: SecretStr | None = None
    """Server of Redis or Valkey that has the users' histories in place of the folder `histories`, for servers
    on several hosts: `redis://user:password@host:6379/0`, `rediss://` with TLS, or `unix:///path?db=0`."""
    catalogue: Path = Path("build/stores/catalogue")
    """Store of the items that callers add, update and remove while serving; a relative path starts at the
    repository's root. It outlives bundles, each of which makes vectors of its own of what is there."""
    policy_alphas: Path = Path("build/stores/policy-alphas.json")
    """File of the policy's operating points, which `unipinrec policy set-alpha` changes while servers run; a
    relative path starts at the repository's root. Replicas with one file switch together."""
    runtime_dir: Path = SHARED_MEMORY / "unipinrec"
    """Folder of the KV pools on this machine. Shared memory keeps them mapped between processes and costs
    memory; the launcher appends its process id and a random part."""
    pool_slots: Count = 64
    """Users whose keys and values fit at once, in each retrieval instance. More slots keep more users warm
    and let more requests be under way, and cost 2 x layers x width x (max_history + 1) x bytes each."""
    kv_precision: Precision = "float32"
    """What keys and values are kept in: `float32` exactly as computed, `bfloat16` or `int8` rounded, for
    twice and nearly four times as many users in the same memory and a copy for each pass over them."""
    gpu_precision: Literal["float32", "bfloat16", "float8"] = "bfloat16"
    """What a GPU computes the trunk in. `float8` needs compute capability 8.9 and rounds the linear layers'
    weights and inputs further; slots hold bfloat16 with it too. `float32` is for comparing."""
    gpu_item_precision: Literal["float32", "bfloat16", "int8"] = "float32"
    """What a GPU keeps the vectors of all items in, once for each of retrieval and ranking. Bfloat16 changes
    nothing where the trunk computes in it, `int8` takes a quarter of the memory and rounds."""
    gpu_graphs: bool = True
    """Whether a GPU replays CUDA graphs, captured at start for every shape. Without them, starting is faster
    and the launches of kernels limit the speed."""
    gpu_compile: Literal["static", "dynamic", "off"] = "static"
    """How layers are compiled for the GPU: `static` makes a program for every shape, which are the fastest
    and take the longest at the first start; `dynamic` makes few for all shapes. `off` starts in seconds, and
    attention then computes every score of every slot, without graphs: for debugging with small pools."""
    compile_cache: Path = Path("build/compile-cache")
    """Folder that keeps what was compiled for a GPU, so that only the first start takes minutes; a relative
    path starts at the repository's root. What lies there is run: nobody else may write to it, and its file
    system must allow programs."""
    load_timeout_s: Count = 1800
    """Seconds that the nodes may take to load, at the start and after one has died. A GPU's nodes compile for
    minutes when `compile_cache` is empty."""
    deadline_ms: Count = 10_000
    """Milliseconds after which nobody waits for an answer any more, for callers who send no `timeout`: what
    is not answered then is not computed further. The client sends its own timeout, by default the same."""
    max_in_flight: Annotated[int, Field(ge=0, le=1_000)] = 256
    """Users whose requests may be under way at once; others are refused, as is what would come later than its
    caller waits. More let patient callers wait longer, in queues that nothing else bounds. 0 lets everybody
    in."""
    lease_ms: Count = 10_000
    """Milliseconds for which ranking may read a slot after retrieval filled it, unless it is done earlier.
    Longer leases survive longer queues; a request that is never ranked holds its slot back until then."""
    policy_budget_ms: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Milliseconds after the check of a request for which scoring waits for a policy's decision. One that is
    there when the ranking is done costs no wait. A longer budget lets a slow policy delay more answers, a
    shorter one gives more answers static weights."""
    exclude_seen: bool = True
    """Leave the items of a user's history out of the results. Turn it off where repeats are welcome."""
    threads: Count = 1
    """Intra-operation threads of each node's process. More shorten a lone request and cost throughput as
    soon as the nodes' threads outnumber the cores."""
    max_events: Count = 8192
    """Events that an inline history, or all users of a request to `append_events` together, may have. Higher
    limits cost request bytes; the trunk reads the most recent `max_history` in any case."""
    append_events: bool = False
    """Whether callers may add events to stored histories, by the model `append_events`. Triton asks nobody
    who they are: whoever reaches its ports can then write to any user's history."""
    max_stored_events: Count = 32_768
    """Latest events of a user that the store keeps; an append drops older ones for good. Fewer save disk and
    reading, 32 bytes each; a second ranker reads as many as it was trained with, impressions among them."""
    update_items: bool = False
    """Whether callers may add, update and remove items, by the model `update_items`. Triton asks nobody who
    they are: whoever reaches its ports can then change what everybody is recommended."""
    max_added_items: Count = 50_000
    """Rows that items which callers add or update may take, each update one more: every query is compared
    with all of them, and every node keeps them, 500 bytes each. A new bundle that holds the items starts
    at 0."""
    max_exclude: Annotated[int, Field(ge=0)] = 1024
    """Items that a request may exclude. Each makes the index search look further."""
    explore_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Share of users whose weights are an arm of the policy's grid drawn at random, so that a policy can be
    learned from what follows. Each of them is worth less to the user than a choice, on average."""
    explore_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Which requests explore, and with which arms. Replicas need the same."""
    admin_key: SecretStr | None = None
    """Secret that a caller must send as the header `unipinrec-admin-key` to change the policy's operating
    points. Without one, or with an empty one, nobody can change them by a call."""
    seal_key: SecretStr | None = None
    """Secret under which nodes seal what they pass on, 64 hexadecimal digits. The launcher makes one at every
    start; nodes that another server loads need one, the same for all of them, and do not start without."""
    seal_lifetime_s: Count = 30
    """Seconds after its check for which inner nodes work on a request. More let slower ones finish, and let
    whoever called `history` directly use what it sealed for longer, to learn what `recommend` answers."""
    ann_device: Literal["cpu", "cuda"] = "cpu"
    """Where the item index is searched. `cuda` frees the processor, takes GPU memory beside the host's, needs
    FAISS built for GPU, and builds a CAGRA graph at each start where the bundle's index is `hnsw`."""
    index_url: str | None = None
    """Address of a Milvus server that is searched in place of the bundle's own index, as
    `http://127.0.0.1:19530`; `unipinrec index push` brings a bundle's items there."""
    index_token: SecretStr | None = None
    """Token of that server, `user:password` or a key of its own."""
    index_timeout_ms: Annotated[int, Field(ge=1, le=3_000)] = 1_000
    """Milliseconds that a search of that server may take; a request whose search takes longer is refused, and
    so are those of the same time after it."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    """What the nodes log, one JSON object a line: with `INFO` each request by its id, with `WARNING` only
    what went wrong inside."""
    trace_url: str | None = None
    """Receiver of OpenTelemetry spans over HTTP, as `http://127.0.0.1:4318/v1/traces`; without it nothing is
    traced."""
    trace_rate: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """One request in so many is traced, canaries among them; one that comes over HTTP with a `traceparent`
    header always is. Each trace is ten spans to send and store."""

    exit_timeout_s: Count = 5
    """Seconds that a stop leaves to requests in flight; 5 more may go by until the server has ended. More let
    slower requests finish, and a node that hangs delays a stop by all of them."""
    triton_home: Path | None = None
    """Folder of a Triton installation, with bin/tritonserver and backends/python, as /opt/tritonserver in
    NVIDIA's container. Left out, the server inside the nvidia-pytriton wheel runs."""

    @field_validator(
        "bundle", "histories", "catalogue", "policy_alphas", "runtime_dir", "compile_cache", "triton_home"
    )
    @classmethod
    def _from_root(cls, path: Path | None) -> Path | None:
        return path and ROOT / path.expanduser()

    @field_validator("seal_key")
    @classmethod
    def _is_hexadecimal(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch("[0-9a-f]{64}", key.get_secret_value()):
            raise PydanticCustomError(
                "seal_key", "allowed: 64 hexadecimal digits in small letters", {HIDDEN: True}
            )
        return key

    @field_validator("histories_url")
    @classmethod
    def _names_a_server(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not _is_server(url.get_secret_value()):
            raise PydanticCustomError(
                "histories_url",
                "allowed: redis://[user:password@]host:port/database, rediss:// with TLS, or "
                "unix:///path?db=database, and the options {options}",
                {"options": ", ".join(URL_OPTIONS), HIDDEN: True},
            )
        return url

    @field_validator("trace_url")
    @classmethod
    def _names_a_receiver(cls, url: str | None) -> str | None:
        if url is not None and not _is_receiver(url):
            raise PydanticCustomError("trace_url", "allowed: http://host:port/path or https://host:port/path")
        return url

    @field_validator("index_url")
    @classmethod
    def _names_an_index(cls, url: str | None) -> str | None:
        if url is not None and not _is_web_server(url):
            raise PydanticCustomError(
                "index_url",
                "allowed: http://host:port or https://host:port, without user and password",
                {HIDDEN: "@" in url},
            )
        return url

    @property
    def has_catalogue(self) -> bool:
        """Whether there is a catalogue to read, or callers may fill one."""
        return self.update_items or (self.catalogue / "data.mdb").is_file()

    def with_parameters(self, parameters: Mapping[str, Mapping[str, str]]) -> Self:
        """Return the settings of a node with `parameters` in its configuration, as Triton tells them."""
        own = {name: parameters[name] for name in (BUNDLE, RUNTIME_DIR) if name in parameters}
        return self.model_copy(update={name: Path(said["string_value"]) for name, said in own.items()})

    def as_environment(self) -> dict[str, str]:
        """The variables from which a child process reads equal settings, but for the secrets."""
        shown = self.model_dump(exclude=set(SECRETS))
        values = {name: "" if value is None else str(value) for name, value in shown.items()}
        return {f"{ENV_PREFIX}{name.upper()}": value for name, value in values.items()}

    def secret_environment(self) -> dict[str, str]:
        """The variables of the secrets as they are, which are for child processes and not for eyes."""
        held: dict[str, SecretStr | None] = {name: getattr(self, name) for name in SECRETS}
        return {
            f"{ENV_PREFIX}{name.upper()}": secret.get_secret_value() if secret else ""
            for name, secret in held.items()
        }

    def sealing(self) -> Self:
        """Return the settings with a random `seal_key` where they have none."""
        if self.seal_key is not None:
            return self
        return self.model_copy(update={"seal_key": SecretStr(secrets.token_hex(32))})

    def compiler_environment(self) -> dict[str, str]:
        """The variables that make PyTorch's compiler keep its results in `compile_cache`."""
        return {
            "TORCHINDUCTOR_CACHE_DIR": str(self.compile_cache / "inductor"),
            "TRITON_CACHE_DIR": str(self.compile_cache / "triton"),
        }


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        named = bool(parts.path if parts.scheme == "unix" else parts.hostname) and parts.port != 0
    except ValueError:
        return False
    database = options.get("db", [""])[-1] or ("" if parts.scheme == "unix" else parts.path.strip("/"))
    is_number = not database or (database.isascii() and database.isdigit())
    return named and is_number and parts.scheme in URL_SCHEMES and set(options) <= set(URL_OPTIONS)


def _is_receiver(url: str) -> bool:
    return _is_web(url) and len(urlsplit(url).path) > 1


def _is_web_server(url: str) -> bool:
    return _is_web(url) and "@" not in url


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and parts.scheme in {"http", "https"} and " " not in url
