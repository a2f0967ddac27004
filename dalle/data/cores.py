"""How many cores this process may use."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: of its affinity, and no more than its control group has."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, int(min(cores, _quota())))


def _quota() -> float:
    """Cores that a container's share of time amounts to."""
    try:
        lines = MEMBERSHIP.read_text("utf-8").splitlines()
    except OSError:
        return float("inf")
    quotas = [float("inf")]
    for line in lines:
        _, controllers, place = line.split(":", maxsplit=2)
        root = CGROUPS / "cpu" if "cpu" in controllers.split(",") else CGROUPS
        if controllers and root == CGROUPS:
            continue
        own = root / place.lstrip("/")
        # In a container the group may be named as outside of it, and is found at the root.
        above = (folder for folder in own.parents if folder.is_relative_to(root))
        quotas += map(_quota_of, (own, *above))
    return min(quotas)


def _quota_of(folder: Path) -> float:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text("utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text("utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text("utf-8")
        return float(quota) / float(period) if float(quota) > 0 else float("inf")
    except (OSError, ValueError):  # "max": no limit
        return float("inf")
