"""Pictures that are the same, or nearly."""

from hashlib import blake2b

import numpy as np
from jaxtyping import Int, UInt8, UInt64
from PIL import Image

MAX_DISTANCE = 3
"""Bits of the 64 in which near duplicates differ at most."""
MAX_COLOUR = 6
"""How far their mean colours may be apart, of 255."""
_BANDS = MAX_DISTANCE + 1
_LARGEST = 2048
"""Pictures of one band that are compared with each other; more of one kind say nothing."""


def exact_hash(image: Image.Image) -> int:
    """Of the pixels: files that decode to the same picture have the same, in 64 bits."""
    data = f"{image.size}".encode() + image.tobytes()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def near_hash(image: Image.Image) -> int:
    """64 bits that change little when a picture is scaled or compressed again.

    Each says whether a cell of the picture at 9 x 8 is brighter than the one to its right.
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


def mean_colour(image: Image.Image) -> tuple[int, int, int]:
    """Of the whole picture, 0 to 255."""
    red, green, blue = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[misc]
    return red, green, blue


def repeats(hashes: UInt64[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """For each picture the number of the first one that is the same; itself where it is that."""
    _, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    return first[place]


def near_pairs(
    hashes: UInt64[np.ndarray, " n"], colours: UInt8[np.ndarray, "n 3"]
) -> list[tuple[int, int]]:
    """Pairs of numbers, the lower one first, of pictures that nearly agree.

    Two that differ in at most 3 bits agree in one of four groups of 16: only those are compared.
    Flat pictures, which have no bits at all, are left out.
    """
    found: set[tuple[int, int]] = set()
    drawn = np.flatnonzero(hashes != 0)
    for band in range(_BANDS):
        part = (hashes[drawn] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(part, kind="stable")
        cuts = np.flatnonzero(np.diff(part[order])) + 1
        for group in np.split(drawn[order], cuts):
            if 1 < len(group) <= _LARGEST:
                found.update(_close(np.sort(group), hashes, colours))
    return sorted(found)


def _close(
    group: Int[np.ndarray, " m"],
    hashes: UInt64[np.ndarray, " n"],
    colours: UInt8[np.ndarray, "n 3"],
) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for place, one in enumerate(group[:-1]):
        others = group[place + 1 :]
        differing = (hashes[others] ^ hashes[one])[:, None].view(np.uint8)
        bits = np.unpackbits(differing, axis=1).sum(axis=1)
        far = np.abs(colours[others].astype(np.int16) - colours[one]).max(axis=1)
        near = others[(bits <= MAX_DISTANCE) & (far <= MAX_COLOUR)]
        pairs += [(int(one), int(other)) for other in near]
    return pairs
