"""Named model configurations, `configs/<profile>.pbtxt` beside a model's config.pbtxt."""

from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from ensemble.gpu_presence import require_gpu
from ensemble.graph import read_config
from ensemble.server.server_error import ServerError


def check_profile(profile: str | None, model_repository: Path) -> None:
    """Refuse a profile that cannot be served here, before a server starts.

    Raises:
        ServerError: no model has it; Triton itself would silently use the default.
        NoGpuError: it asks for a GPU, and there is none.
    """
    if profile is None:
        return
    profiles = sorted({path.stem for path in model_repository.glob("*/configs/*.pbtxt")})
    if profile not in profiles:
        raise ServerError(
            f"--profile is {profile}; allowed: {', '.join(profiles) or 'none in this repository'}"
        )
    if any(_runs_on_a_gpu(path) for path in model_repository.glob(f"*/configs/{profile}.pbtxt")):
        require_gpu(f"--profile is {profile}", ", or no --profile")


def _runs_on_a_gpu(path: Path) -> bool:
    return any(group.kind == ModelInstanceGroup.KIND_GPU for group in read_config(path).instance_group)
