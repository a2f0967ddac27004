"""What is said of memory: what is free, what was used at most."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dalle import device_memory
from dalle.device_memory import free_bytes

CPU = torch.device("cpu")
MIB = 2**20
MEMORY_STAT = "cache 5\n{name} 100\n"


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, groups: str) -> Path:
    """A machine with 1,000 kB available, whose processes are in some control groups."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 1000 kB\n")
    (folder / "proc" / "self" / "cgroup").write_text(groups)
    monkeypatch.setattr(device_memory, "PROC", folder / "proc")
    monkeypatch.setattr(device_memory, "CONTROL_GROUPS", folder / "groups")
    return folder / "groups"


def group(folder: Path, limit: str, *, version: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
    (folder / f"memory.{names[0]}").write_text(f"{limit}\n")
    (folder / f"memory.{names[1]}").write_text("2000\n")
    idle = {1: "total_inactive_file", 2: "inactive_file"}[version]
    (folder / "memory.stat").write_text(MEMORY_STAT.format(name=idle))


def test_without_limits_the_machine_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = machine(tmp_path, monkeypatch, "4:memory:/a\n1:cpu:/a\n0::/\n")
    group(groups / "memory" / "a", str(2**63 - 4096), version=1)
    group(groups, "max", version=2)
    assert free_bytes(CPU) == 1000 * 1024


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_group_around_the_process_decides(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {1: "4:cpuset,memory:/a/b\n", 2: "0::/a/b\n"}[version]
    root = machine(tmp_path, monkeypatch, line) / {1: "memory", 2: ""}[version]
    group(root / "a" / "b", "90000", version=version)
    group(root / "a", "10000", version=version)
    group(root / "other", "3000", version=version)
    assert free_bytes(CPU) == 10_000 - 2000 + 100


def test_this_machine_has_memory_left() -> None:
    assert 0 < free_bytes(CPU) < 2**50


A_PEAK = """
import torch
from dalle.device_memory import PeakMemory
peak = PeakMemory(torch.device("cpu"))
for _ in range(3):
    torch.ones(64 * 2**20, dtype=torch.uint8)
print(peak.used, PeakMemory(torch.device("cpu")).used)
"""


def test_a_peak_is_that_of_what_is_in_use_at_a_time() -> None:
    # In a process of its own: another test may have told this one to keep what is freed.
    told = subprocess.run(
        [sys.executable, "-c", A_PEAK], check=True, capture_output=True, text=True
    )
    first, second = map(int, told.stdout.split())
    assert 60 * MIB < first < 100 * MIB
    assert second < 30 * MIB


LARGE_PAGES = """
import contextlib
from dalle.cli import main
with contextlib.suppress(SystemExit):
    main(["--version"])
import torch
import dalle.cli.train
import dalle.sampling.load
tensor, region = torch.ones(2**24), False
for line in open("/proc/self/smaps"):
    words = line.split()
    if "-" in words[0] and not words[0].endswith(":"):
        first, last = (int(word, 16) for word in words[0].split("-"))
        region = first <= tensor.data_ptr() < last
    if region and words[0] == "VmFlags:":
        print("hg" in words)
"""


def test_commands_ask_for_large_pages_before_the_first_tensor() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    told = subprocess.run(
        [sys.executable, "-c", LARGE_PAGES],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert told.stdout.split()[-1] == "True"  # after the version
