"""What a decoder's folder holds beside the decoder: the models that drawing with it takes."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dalle.checkpoint import IMAGE_TOKENIZER, RERANKER
from dalle.checkpoint.folder import write_neighbour


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """Models, or their folders, that a trained decoder takes along: its folder is all one needs."""

    image_tokenizer: Path | nn.Module
    reranker: Path | nn.Module | None = None

    def write(self, folder: Path) -> None:
        """Put them into the folder of the model."""
        write_neighbour(folder / IMAGE_TOKENIZER, self.image_tokenizer)
        if self.reranker:
            write_neighbour(folder / RERANKER, self.reranker)
