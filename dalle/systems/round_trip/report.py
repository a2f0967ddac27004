"""A round trip as a folder: every candidate with its scores, in one JSON file and on one page.

out/reconstruction.json
out/contact-sheet.png
out/original.png          the given picture, where one was given
out/000-0.png             a picture of candidate 0; a second one of it is 000-1.png, ...
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dalle.checkpoint.manifest import whole_folder, write_json
from dalle.errors import SaveError
from dalle.sampling.contact_sheet import Band, Entry, contact_sheet
from dalle.systems.round_trip.choose import CaptionCandidate, Choice, PictureCandidate

FORMAT = 1
RECORD = "reconstruction.json"
SHEET = "contact-sheet.png"
ORIGINAL = "original.png"


def save_caption_choice(
    folder: Path,
    image: Image.Image,
    choice: Choice[CaptionCandidate],
    *,
    settings: Mapping[str, Any],
) -> None:
    """Write the captions of a picture, their pictures and scores; whole, or not at all.

    Args:
        folder: must not exist yet.
        image: the given picture.
        choice: of `choose_caption`.
        settings: what it was made with, as JSON values.

    Raises:
        SaveError: it exists, or cannot be written.
    """
    pictures = {ORIGINAL: image}
    candidates = []
    for number, candidate in enumerate(choice.candidates):
        names = [f"{number:03d}-{i}.png" for i in range(len(candidate.pictures))]
        pictures |= zip(names, candidate.pictures, strict=True)
        candidates.append(
            {
                "caption": candidate.text,
                "times": candidate.times,
                "score": candidate.score,
                "similarities": list(candidate.similarities),
                "pictures": names,
            }
        )
    seed = int(settings["seed"])
    bands = [Band(title="the given picture", note="", entries=(Entry(image=image, caption=()),))]
    for place, number in enumerate(choice.ranking):
        candidate = choice.candidates[number]
        bands.append(
            Band(
                title=_marked(candidate.text or "(no caption)", place),
                note=_note(candidate, place),
                entries=tuple(
                    Entry(
                        image=picture,
                        caption=(f"{candidate.similarities[i]:.3f}", f"seed {seed + i}"),
                    )
                    for i, picture in enumerate(candidate.pictures)
                ),
            )
        )
    given = {"task": "image", "original": ORIGINAL}
    _save(folder, given, settings, choice.ranking, candidates, pictures, bands)


def save_picture_choice(
    folder: Path,
    text: str,
    choice: Choice[PictureCandidate],
    *,
    settings: Mapping[str, Any],
) -> None:
    """Write the pictures of a text, their captions and scores; whole, or not at all.

    Args:
        folder: must not exist yet.
        text: the given text.
        choice: of `choose_picture`.
        settings: what it was made with, as JSON values.

    Raises:
        SaveError: it exists, or cannot be written.
    """
    pictures = {}
    candidates = []
    for number, candidate in enumerate(choice.candidates):
        pictures[f"{number:03d}-0.png"] = candidate.image
        candidates.append(
            {
                "picture": f"{number:03d}-0.png",
                "seed": candidate.seed,
                "times": candidate.times,
                "score": candidate.score,
                "similarities": list(candidate.similarities),
                "captions": list(candidate.captions),
            }
        )
    bands = [Band(title=text or "(no text)", note="the given text", entries=())]
    for place, number in enumerate(choice.ranking):
        shown = choice.candidates[number]
        entry = Entry(image=shown.image, caption=(f"seed {shown.seed}",))
        title = _marked(" | ".join(shown.captions), place)
        bands.append(Band(title=title, note=_note(shown, place), entries=(entry,)))
    given = {"task": "text", "text": text}
    _save(folder, given, settings, choice.ranking, candidates, pictures, bands)


def check_free(folder: Path) -> None:
    """Refuse a report's folder that is there already, before anything is computed.

    Raises:
        SaveError: it is.
    """
    if folder.exists() or folder.is_symlink():
        raise SaveError(f"{folder} exists; give another --out, or remove it")


def _marked(title: str, place: int) -> str:
    return f"chosen: {title}" if place == 0 else title


def _note(candidate: CaptionCandidate | PictureCandidate, place: int) -> str:
    again = f", came {candidate.times} times" if candidate.times > 1 else ""
    each = " ".join(f"{alike:.3f}" for alike in candidate.similarities)
    of = f" (mean of {each})" if len(candidate.similarities) > 1 else ""
    return f"rank {place + 1}: {candidate.score:.3f}{of}{again}"


def _save(
    folder: Path,
    given: dict[str, Any],
    settings: Mapping[str, Any],
    ranking: tuple[int, ...],
    candidates: list[dict[str, Any]],
    pictures: Mapping[str, Image.Image],
    bands: list[Band],
) -> None:
    check_free(folder)
    record = {
        "format": FORMAT,
        **given,
        "chosen": ranking[0],
        "ranking": list(ranking),
        "candidates": candidates,
        "settings": dict(settings),
    }
    with whole_folder(folder, "report") as scratch:
        for name, picture in pictures.items():
            picture.save(scratch / name)
        contact_sheet(bands).save(scratch / SHEET)
        write_json(scratch / RECORD, record)
