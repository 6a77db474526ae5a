"""Device, precision and loading workers change how fast a run learns, and not what."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.support.clusters import cluster_dataset
from tests.support.shared_training import LOSSES, run
from unipinrec.data.blended import BlendedBatch, BlendedConfig, BlendedDataset
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.common.objective import WHOLE
from unipinrec.models.config import sized
from unipinrec.models.registry import find_model
from unipinrec.training.hardware import Hardware


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hardware") / "data"
    cluster_dataset(folder, users=24)
    return folder


@pytest.fixture(scope="module")
def batch(data: Path) -> BlendedBatch:
    examples = BlendedDataset(InteractionDataset.load(data), BlendedConfig(max_history=16))
    first: BlendedBatch = next(iter(examples.batches(batch_size=24, seed=1)))
    return first


def objective(data: Path, name: str) -> nn.Module:
    spec_name, sizes, losses = LOSSES[name]
    spec = find_model(spec_name)
    interactions = InteractionDataset.load(data)
    config = sized(spec.config, "tiny", interactions.catalogue_fields | sizes)
    torch.manual_seed(4)
    training = spec.training.model_validate({"epochs": 1, "in_batch_negatives": 32} | losses)
    return spec.objective(spec.make(config), training, spec.examples(interactions, config, 0))


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_makes_every_tensor_on_the_models_device(data: Path, batch: BlendedBatch, name: str) -> None:
    trained = objective(data, name)
    # What names no device is made where nothing can be computed.
    with torch.device("meta"):
        losses = trained(batch, WHOLE)
        losses.total.backward()
    assert {loss.device.type for loss in losses.values().values()} == {"cpu"}
    assert all(bool(loss.isfinite()) for loss in losses.values().values())
    assert {weight.grad.device.type for weight in trained.parameters() if weight.grad is not None} == {"cpu"}


def test_a_batch_moves_whole(batch: BlendedBatch) -> None:
    moved = batch.to(torch.device("meta"))
    assert {getattr(moved, name).device.type for name in BlendedBatch.__slots__} == {"meta"}


def test_bf16_is_for_the_trunk_alone(data: Path, batch: BlendedBatch) -> None:
    trained = objective(data, "unified").eval()
    dtypes: dict[str, torch.dtype] = {}

    def note(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            dtypes[name] = output.dtype

        module.register_forward_hook(hook)

    for name in ("embedder", "retrieval_head", "ranking_head", "trunk.blocks.0.output", "trunk.blocks.0.qkv"):
        note(name, trained.model.get_submodule(name))
    torch.manual_seed(5)
    exact = trained(batch).values()
    assert set(dtypes.values()) == {torch.float32}
    torch.manual_seed(5)
    with Hardware(precision="bf16").autocast():
        found = trained(batch).values()
    assert dtypes == {
        "embedder": torch.float32,
        "retrieval_head": torch.float32,
        "ranking_head": torch.float32,
        "trunk.blocks.0.output": torch.bfloat16,
        "trunk.blocks.0.qkv": torch.bfloat16,
    }
    for loss, value in exact.items():
        assert found[loss].dtype == torch.float32
        assert found[loss] != value
        assert float(found[loss]) == pytest.approx(float(value), rel=0.02)


def test_a_run_in_bf16_keeps_weights_and_moments_in_float32(data: Path, tmp_path: Path) -> None:
    checkpoint = run("unified", data, tmp_path, Hardware(precision="bf16"))
    for name in ("model", "optimizer"):
        tensors = load_file(checkpoint / f"{name}.safetensors").values()
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}


def test_loading_in_workers_changes_nothing(data: Path, tmp_path: Path) -> None:
    alone = run("unified", data, tmp_path / "alone", Hardware(), dropout=0.2)
    helped = run("unified", data, tmp_path / "helped", Hardware(workers=2), dropout=0.2)
    one, other = (load_file(path / "model.safetensors") for path in (alone, helped))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("unipinrec.training.hardware._has_bfloat16", lambda _: True)


def started_as(monkeypatch: pytest.MonkeyPatch, rank: int, local_rank: int, processes: int) -> None:
    """What torchrun tells a process."""
    for name, value in (("RANK", rank), ("LOCAL_RANK", local_rank), ("WORLD_SIZE", processes)):
        monkeypatch.setenv(name, str(value))


def test_without_a_gpu_the_default_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Hardware.choose(None, "bf16", 3) == Hardware(precision="bf16", workers=3)
    for name in ("cuda", "cuda:0", "tpu", ""):
        with pytest.raises(ValueError, match=rf"^device is {name}; allowed here: cpu$"):
            Hardware.choose(name, "float32", 0)


@pytest.mark.usefixtures("two_gpus")
def test_each_process_of_a_host_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Hardware.choose(None, "float32", 0).device == torch.device("cuda:0")
    assert Hardware.choose("cuda:1", "float32", 0).device == torch.device("cuda:1")
    assert Hardware.choose("cpu", "float32", 0).device == torch.device("cpu")
    started_as(monkeypatch, rank=5, local_rank=1, processes=8)
    chosen = Hardware.choose("cuda", "float32", 0)
    assert (chosen.device, chosen.rank, chosen.processes) == (torch.device("cuda:1"), 5, 8)
    assert not chosen.leads
    with pytest.raises(
        ValueError, match=r"^device is cuda:1, which 8 processes cannot share; allowed: cpu, cuda$"
    ):
        Hardware.choose("cuda:1", "float32", 0)
    with pytest.raises(ValueError, match=r"^device is cuda:2; allowed here: cpu, cuda, cuda:0, cuda:1$"):
        Hardware.choose("cuda:2", "float32", 0)
    started_as(monkeypatch, rank=2, local_rank=2, processes=3)
    with pytest.raises(
        ValueError, match=r"^process 2 of this host has no GPU of its own; allowed: 2 processes$"
    ):
        Hardware.choose("cuda", "float32", 0)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_without_bfloat16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unipinrec.training.hardware._has_bfloat16", lambda device: device.type == "cpu")
    assert Hardware.choose("cpu", "bf16", 0).precision == "bf16"
    with pytest.raises(ValueError, match=r"^precision is bf16; allowed on cuda:0: float32$"):
        Hardware.choose("cuda", "bf16", 0)
    with pytest.raises(ValueError, match=r"^precision is fp16; allowed on cpu: float32, bf16$"):
        Hardware.choose("cpu", "fp16", 0)


def test_a_batch_that_processes_cannot_share_evenly_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^batch_size is 16; allowed: multiples of 3, the processes$"):
        run("unified", data, tmp_path, Hardware(processes=3))
