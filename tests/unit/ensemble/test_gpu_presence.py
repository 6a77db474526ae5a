"""What is said of the GPUs of a host comes from its driver."""

from pathlib import Path

import pytest

from ensemble.gpu_presence import describe_gpus


def test_gpus_are_described_in_the_drivers_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'H100, 580.65, 700.00 W'\necho 'A100, 580.65, 400.00 W'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_gpus().endswith(": H100, 580.65, 700.00 W; A100, 580.65, 400.00 W")
    assert describe_gpus().startswith("name, driver_version, power.limit, ")


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 9\n"])
def test_a_host_whose_driver_says_nothing_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    if script:
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_gpus().startswith("unknown, since nvidia-smi failed: ")
