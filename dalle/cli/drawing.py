"""Drawing for the commands: how far it is, where pictures are saved, and what is said of them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tqdm import tqdm

    from dalle.sampling.picture import Picture
    from dalle.sampling.pipeline import Pipeline
    from dalle.sampling.request import Request, Wanted


def draw(
    model: "Pipeline",
    wanted: "list[Wanted]",
    request: "Request",
    progress: "Callable[[int], None] | None" = None,
) -> "Iterator[list[Picture]]":
    """The pictures of each line, the best first."""
    return model.generate_each(
        [one.prompt for one in wanted],
        request,
        seeds=[one.seed for one in wanted],
        num_samples=[one.num_samples for one in wanted],
        progress=progress,
    )


def draw_and_save(model: "Pipeline", wanted: "list[Wanted]", request: "Request", out: Path) -> None:
    """Draw under a bar, save, and print the best of each line and where everything is."""
    from dalle.sampling.output import save_results

    best: list[Picture] = []
    with codes_bar(sum(one.num_samples for one in wanted), model) as bar:

        def noted() -> "Iterator[list[Picture]]":
            for pictures in draw(model, wanted, request, bar.update):
                best.append(pictures[0])
                yield pictures

        saved = save_results(out, noted())
    for picture in best:
        print(_line(picture))
    number, size = len(saved.pictures), model.processes.size
    by = f" by {size} processes" if size > 1 else ""
    print(f"{number} pictures{by} in {saved.folder}, everything about them in {saved.record}")
    for sheet in saved.sheets:
        print(f"contact sheet: {sheet}")


def codes_bar(pictures: int, model: "Pipeline") -> "tqdm[None]":
    """Of the codes of so many pictures, on a terminal; fewer come where some are not needed."""
    from tqdm import tqdm

    return tqdm(
        total=max(pictures, 0) * model.model.layout.image,
        desc="codes",
        unit="code",
        unit_scale=True,
        leave=False,
        disable=not sys.stderr.isatty(),
    )


def _line(picture: "Picture") -> str:
    from dalle.sampling.prompts import printable

    by = {"clip": "CLIP", "log_prob": "the model's own ln p(picture | text)"}[picture.score_kind]
    return (
        f"{printable(picture.prompt) or '(no prompt)'}: the best of {picture.made.num_samples} by "
        f"{by} has {picture.score:.3f} (seed {picture.seed})"
    )
