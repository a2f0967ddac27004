"""What a published decoder needs besides its own file: tokenizers, elsewhere on the hub."""

import hashlib
import os
from pathlib import Path

from dalle.checkpoint.manifest import saving

_RUDALLE = (
    ("ai-forever/Sber-VQGAN", "vqgan.gumbelf8-sber.model.ckpt"),
    ("shonenkov/rudalle-utils", "bpe.model"),
)
COMPANIONS = {
    "ai-forever/rudalle-Malevich": _RUDALLE,
    "ai-forever/rudalle-Emojich": _RUDALLE,
    "ai-forever/rudalle-Kandinsky": _RUDALLE,
    "sberbank-ai/rudalle-Malevich": _RUDALLE,
    "sberbank-ai/rudalle-Emojich": _RUDALLE,
    "sberbank-ai/rudalle-Kandinsky": _RUDALLE,
    "shonenkov-AI/rudalle-xl-surrealist": _RUDALLE,
    "shonenkov-AI/Kandinsky": _RUDALLE,
    "FoundationVision/LlamaGen": (("FoundationVision/LlamaGen", "vq_ds16_c2i.pt"),),
    "peizesun/llamagen_t2i": (("peizesun/llamagen_t2i", "vq_ds16_t2i.pt"),),
}
"""Repository -> (repository, file) of each."""


def companions(name: str, file: str) -> list[tuple[str, str]]:
    """What has to lie beside a file; nothing for one that is itself such a part."""
    parts = {part for group in COMPANIONS.values() for _, part in group}
    # LlamaGen's repository holds its tokenizers of both kinds, whose files begin so.
    if file in parts or file.startswith("vq_"):
        return []
    return list(COMPANIONS.get(name, ()))


def together(files: list[Path], *, folder: Path) -> Path:
    """A folder in which files lie beside each other, as links.

    Args:
        files: where they are.
        folder: in which it is made.
    """
    said = "\n".join(str(file) for file in files)
    place = folder / hashlib.sha256(said.encode()).hexdigest()[:32]
    with saving(place):
        place.mkdir(parents=True, exist_ok=True)
        for file in files:
            link = place / file.name
            if not link.exists():
                link.unlink(missing_ok=True)  # to what is no more
                os.symlink(file, link)
    return place
