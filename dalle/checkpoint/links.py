"""Links in folders of unknown origin: nothing is copied from, or written to, where they lead."""

import os
from pathlib import Path

from dalle.checkpoint.steps import step_of
from dalle.errors import InputError


def refuse_links_outside(folder: Path) -> None:
    """Refuse a folder that is to be copied or uploaded, and would take other files along.

    The hub's local copies are links into a folder of their own, which are let be.

    Raises:
        InputError: names the first link that leads outside, or to a folder.
    """
    inside = folder.resolve()
    blobs = next((p.parent / "blobs" for p in inside.parents if p.name == "snapshots"), inside)
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink():
            continue
        target = Path(os.path.realpath(path))
        if path.is_dir() or not (target.is_relative_to(inside) or target.is_relative_to(blobs)):
            raise InputError(
                f"{str(path)!r} is a link to {str(target)!r}, outside its model folder; put the "
                "file itself there, or remove the link"
            )


def refuse_links_in_run(run: Path) -> None:
    """Refuse a run's folder in which a link stands where training writes; steps may be links.

    Raises:
        InputError: names the first link.
    """
    for place, folders, files in os.walk(run):
        if Path(place) == run:
            folders[:] = [name for name in folders if step_of(Path(name)) is None]
        for name in (*folders, *files):
            if os.path.islink(os.path.join(place, name)):
                raise InputError(
                    f"{os.path.join(place, name)!r} is a link; a run writes into its own folder "
                    "only: remove the link, or give another folder"
                )
