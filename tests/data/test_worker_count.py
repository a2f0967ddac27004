"""How many processes read: none for codes, and no more than the cores that may be used."""

import os
from pathlib import Path

import numpy as np
import pytest

from dalle.data import cores as usable
from dalle.data.cores import usable_cores
from dalle.data.shapes import ShapesSource
from dalle.data.split import Subset
from dalle.data.tokens import EncodedSource
from dalle.data.worker_count import default_workers, gives_codes

PICTURES = ShapesSource(3)
CODES = EncodedSource(
    keys=["a"], codes=np.zeros((1, 1, 2, 2), np.uint16), captions=[()], damaged={}
)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Twenty of them, in no control group."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(20)), raising=False)
    monkeypatch.setattr(usable, "CGROUPS", tmp_path)
    monkeypatch.setattr(usable, "MEMBERSHIP", tmp_path / "member")


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("on_cpu", "processes", "expected"),
    [(False, 1, 16), (False, 2, 9), (False, 20, 0), (True, 1, 5), (True, 4, 1), (True, 8, 0)],
)
def test_cores_are_divided(on_cpu: bool, processes: int, expected: int) -> None:
    assert default_workers(PICTURES, on_cpu=on_cpu, processes=processes) == expected


@pytest.mark.usefixtures("cores")
def test_codes_are_read_by_the_process_that_trains() -> None:
    assert gives_codes(Subset(CODES, [0]))
    assert not gives_codes(Subset(PICTURES, [0]))
    assert default_workers(CODES, on_cpu=False, processes=1) == 0


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("member", "files", "expected"),
    [
        ("0::/a/b\n", {"a/cpu.max": "350000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a/b\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 20),
        (
            "4:cpu,cpuacct:/d\n1:name=systemd:/d\n",
            {"cpu/d/cpu.cfs_quota_us": "600000\n", "cpu/d/cpu.cfs_period_us": "100000\n"},
            6,
        ),
        (
            "4:cpu,cpuacct:/elsewhere\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            20,
        ),
    ],
)
def test_a_container_has_the_cores_that_it_is_given(
    tmp_path: Path, member: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "member").write_text(member)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores() == expected
