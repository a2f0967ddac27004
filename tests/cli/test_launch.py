"""The launcher's files: accelerate takes them, and what they say is what runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from dalle.checkpoint.steps import read_run
from dalle.cli import launch_config, main
from dalle.cli.launch_config import Name

NAMES = get_args(Name)
KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}


def write(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The file as the command prints it."""
    assert main(["launch-config", name]) == 0
    path = folder / f"{name}.yaml"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_knows_every_field(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(name, tmp_path, capsys)
    config = load_config_from_file(str(path))
    fields = yaml.safe_load(path.read_text())
    strategy, _, offload = name.partition("-")
    assert fields["distributed_type"] == KINDS.get(strategy, "DEEPSPEED")
    more = fields.get("fsdp_config") or fields.get("deepspeed_config") or {}
    on_host = [key for key, value in more.items() if "offload" in key and value in ("cpu", True)]
    assert bool(on_host) == bool(offload)
    for field, value in fields.items():
        assert getattr(config, field) == value


def test_every_file_has_its_name() -> None:
    files = {path.stem for path in (Path(launch_config.__file__).parents[1] / "launch").iterdir()}
    assert files == set(NAMES)


@pytest.mark.distributed
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name",
    [
        "ddp",
        *(
            pytest.param(name, marks=pytest.mark.proof)
            for name in ("zero3-offload", "fsdp2-offload")
        ),
    ],
)
def test_the_launcher_starts_what_the_file_says(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(name, tmp_path, capsys), tmp_path / "run"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", path),
            *("--main_process_port", "0", "-m", "dalle", "train", "vae"),
            *("--preset", "tiny", "--device", "cpu", "--out", out),
        ],
        env=environment | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model folder:") == 1
    said = read_run(out / "step-00000004")
    assert said["strategy"] == name.removesuffix("-offload")
    assert said["offload"] == name.endswith("-offload")
    assert (said["world"], said["step"]) == (2, 4)
