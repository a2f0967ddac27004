"""From codes to pictures and their scores, a few at a time."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from dalle.pictures import to_uint8
from dalle.protocols import ImageTokenizer, Reranker

PIXELS_AT_ONCE = 1 << 16
PICTURES_AT_ONCE = 32
"""At most so many are decoded and scored at once, fewer where they are large."""


@torch.no_grad()
def draw(
    codes: Int[Tensor, "n rows cols"], tokenizer: ImageTokenizer, device: torch.device
) -> Iterator[Image.Image]:
    """The pictures of some codes, in their order."""
    for images, real in _decoded(codes, tokenizer, device):
        yield from map(Image.fromarray, to_uint8(images[:real]))


@torch.no_grad()
def score(
    prompts: list[str],
    codes: Int[Tensor, "n rows cols"],
    reranker: Reranker,
    tokenizer: ImageTokenizer,
    device: torch.device,
) -> Float[Tensor, " n"]:
    """The reranker's score of each picture for its prompt; no picture outlives its chunk."""
    scores, done = [], 0
    for images, real in _decoded(codes, tokenizer, device):
        texts = prompts[done : done + real]
        texts += texts[-1:] * (len(images) - real)
        scores.append(reranker.score(texts, images)[:real].float().cpu())
        done += real
    return torch.cat(scores)


def _decoded(
    codes: Int[Tensor, "n rows cols"], tokenizer: ImageTokenizer, device: torch.device
) -> Iterator[tuple[Float[Tensor, "chunk 3 height width"], int]]:
    """Pictures in chunks of one size, and how many of each chunk are real: short ones are filled
    up, so that the pixels of a picture do not depend on how many others there are."""
    height, width = tokenizer.image_size
    size = min(max(PIXELS_AT_ONCE // (height * width), 1), PICTURES_AT_ONCE)
    for chunk in codes.split(size):
        filling = chunk[-1:].expand(size - len(chunk), -1, -1)
        yield tokenizer.decode(torch.cat([chunk, filling]).to(device)), len(chunk)
