"""Merges that stand in for those of CLIP, which are not part of this project."""

from itertools import product

from dalle.tokenizers.clip_bpe import NUM_MERGES

REAL = [("r", "e"), ("re", "d</w>"), ("c", "u"), ("cu", "b"), ("cub", "e</w>"), ("'", "s</w>")]


def stand_in_merges() -> str:
    """A file of as many merges as CLIP has; all but the first join letters that no text here
    has."""
    letters = [chr(c) for c in range(0xE0, 0x100)] + [chr(c) for c in range(0x100, 0x121)]
    letters += [chr(c) for c in range(0xA1, 0xAD)]
    pairs = [*REAL, *((a, b) for a, b in product(letters, letters))]
    pairs += [(a + b, c) for (a, b), c in product(product(letters[:40], repeat=2), letters[40:67])]
    assert len(pairs) >= NUM_MERGES
    lines = ['"bpe_simple_vocab_16e6.txt#version: 0.2']
    return "\n".join(lines + [f"{a} {b}" for a, b in pairs[:NUM_MERGES]] + ["past the end of it"])
