"""A wheel built from the tree works in a clean environment, without the repository."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(command: list[str | Path], folder: Path) -> str:
    """Standard output of a command that sees nothing of this repository."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], ROOT)
    [built] = folder.glob("dalle-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_what_the_package_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tree = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "dalle").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tree <= names
    assert {"dalle/py.typed", "dalle/launch/ddp.yaml"} <= tree
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dalle"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    python: Path = home / "bin" / "python"
    # What it depends on comes from here: installing it anew would need the network.
    [packages] = home.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
    ]
    run([*install, "--no-deps", "--no-index", wheel], tmp_path)

    where = run([python, "-c", "import dalle; print(dalle.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(home)
    command = home / "bin" / "dalle"
    assert "train vae" in run([command, "--help"], tmp_path)
    assert "zero_stage: 2" in run([command, "launch-config", "zero2"], tmp_path)
    run([command, "train", "vae", "--preset", "tiny", "--device", "cpu", "--out", "vae"], tmp_path)
    assert "dvae, format 1" in run([command, "inspect", "vae"], tmp_path)
