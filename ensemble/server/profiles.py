"""Named model configurations, `configs/<profile>.pbtxt` beside a model's config.pbtxt."""

from pathlib import Path

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
    configs = [read_config(path) for path in model_repository.glob(f"*/configs/{profile}.pbtxt")]
    if any(group.kind == group.KIND_GPU for config in configs for group in config.instance_group):
        require_gpu(f"--profile is {profile}", ", or no --profile")
