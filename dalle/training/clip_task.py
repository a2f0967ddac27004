"""Training a CLIP on captioned pictures, to rank generated ones.

Source: arXiv 2103.00020, section 2.3.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor, nn

from dalle.data.transforms import center_crop, dalle_augment, to_float
from dalle.errors import ConfigError
from dalle.models.clip import Clip, ClipConfig, ClipOutput
from dalle.protocols import Batch, EncodedSample, Loss, Sample
from dalle.tokenizers.slots import LongCaptions, apply_long_captions
from dalle.tokenizers.text import TextTokenizer
from dalle.training.contrast import contrast, mean_nll, retrieval
from dalle.training.wrong_captions import WrongCaptions

PREVIEW_PICTURES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipObjective:
    """How captions and pictures are varied; what is minimised has no settings."""

    bpe_dropout: float = 0.0
    """Share of the merges that are left out in training."""
    long_captions: LongCaptions = "cut"
    augment: bool = True
    """The paper's crops for the transformer; without it the centre of the picture."""
    wrong_captions: int = 0
    """Nearly right captions of each picture that are further candidates for it in training."""

    def __post_init__(self) -> None:
        if self.wrong_captions < 0:
            raise ConfigError(f"wrong_captions is {self.wrong_captions}; expected 0 or more")
        if not 0.0 <= self.bpe_dropout <= 1.0:
            raise ConfigError(f"bpe_dropout is {self.bpe_dropout}; expected 0 ... 1")


class ClipTask:
    """A `Task`: tell which caption belongs to which picture of the batch, and the reverse.

    Args:
        config: of the model.
        text_tokenizer: its size is the config's.
        objective: what is minimised, over what.
        captions: those of the training data, or some thousands of them, where the objective has
            wrong captions: they are made to read like these.
    """

    kind = "clip"

    def __init__(
        self,
        config: ClipConfig,
        *,
        text_tokenizer: TextTokenizer,
        objective: ClipObjective,
        captions: Iterable[str] = (),
    ) -> None:
        if config.text_vocab != text_tokenizer.vocab_size:
            raise ConfigError(
                f"text_vocab is {config.text_vocab}, the tokenizer has "
                f"{text_tokenizer.vocab_size}; set it to that"
            )
        self.config = config
        self.text_tokenizer = text_tokenizer
        self.objective = objective
        self.wrong = None
        if objective.wrong_captions:
            self.wrong = WrongCaptions.learn(text_tokenizer.encode(text) for text in captions)

    def build(self) -> nn.Module:
        """A fresh CLIP."""
        return Clip(self.config)

    def read(
        self, sample: Sample | EncodedSample, random: Random, *, train: bool
    ) -> dict[str, np.ndarray] | None:
        """Text ids and the picture (uint8, height x width x 3); None without a caption.

        Training draws one of the captions; without training it is the first.
        """
        if not isinstance(sample, Sample):
            raise ConfigError("a CLIP is trained on pictures; give it the source before encoding")
        if not sample.captions:
            return None
        caption = random.choice(sample.captions) if train else sample.captions[0]
        stream = self.text_tokenizer.encode_stream(
            caption,
            slots=self.config.text_slots,
            dropout=self.objective.bpe_dropout if train else 0.0,
            random=random,
        )
        kept = apply_long_captions(stream, self.objective.long_captions, key=sample.key)
        if kept is None:
            return None
        size = {"height": self.config.image_height, "width": self.config.image_width}
        if train and self.objective.augment:
            image = dalle_augment(sample.image, random, **size)
        else:
            image = center_crop(sample.image, **size)
        row = {"text": kept.ids, "image": image}
        if train and self.wrong is not None:
            num = self.objective.wrong_captions
            row["wrong"] = self.wrong.draw(kept.ids, num=num, random=random)
        return row

    def prepare(self, arrays: dict[str, Tensor]) -> Batch:
        """Texts and pictures, and how many pairs of them there are."""
        tensors = {"text": arrays["text"], "images": to_float(arrays["image"])}
        if "wrong" in arrays:
            tensors["wrong"] = arrays["wrong"]
        return Batch(tensors=tensors, counts={"pairs": float(len(arrays["text"]))})

    def loss(
        self, model: nn.Module, batch: Batch, *, step: int, counts: Mapping[str, float]
    ) -> Loss:
        """The mean of both directions' cross entropies, in nats.

        The candidates are the pictures and texts of this micro-batch on all processes, and for
        each picture its own wrong captions.
        """
        texts = batch.tensors["text"]
        if "wrong" in batch.tensors:
            texts = torch.cat([texts, batch.tensors["wrong"].flatten(0, 1)])
        output: ClipOutput = model(batch.tensors["images"], texts)
        losses, hits = contrast(output)
        share = len(losses) / counts["pairs"]
        total = losses.sum() / counts["pairs"]
        return Loss(
            total=total,
            metrics={
                "loss": total.detach(),
                "accuracy": hits.sum() / counts["pairs"],
                "logit_scale": output.logit_scale.detach() * share,
            },
        )

    @torch.no_grad()
    def validate(
        self, model: nn.Module, batches: Iterable[Batch], *, step: int
    ) -> dict[str, float]:
        """Retrieval among all the held-out pairs, both ways, beside what chance would give."""
        outputs = [model(batch.tensors["images"], batch.tensors["text"]) for batch in batches]
        images = torch.cat([output.image_features for output in outputs])
        texts = torch.cat([output.text_features for output in outputs])
        numbers = {"candidates": float(len(images))}
        losses = []
        for name, asked, found in (
            ("text_to_image", texts, images),
            ("image_to_text", images, texts),
        ):
            for k in (1, 5):
                numbers[f"{name}_top{k}"] = retrieval(asked, found, k=k)
            losses.append(mean_nll(asked, found, outputs[0].logit_scale))
        for k in (1, 5):
            numbers[f"chance_top{k}"] = min(1.0, k / len(images))
        return {"loss": sum(losses) / 2, **numbers}

    @torch.no_grad()
    def preview(self, model: nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Some pictures, each beside the caption among the batch's that fits it best."""
        output: ClipOutput = model(batch.tensors["images"], batch.tensors["text"])
        best = (output.image_features @ output.text_features.mT).argmax(dim=1).tolist()
        captions = [
            self.text_tokenizer.decode_stream(ids) for ids in batch.tensors["text"].tolist()
        ]
        images = batch.tensors["images"][:PREVIEW_PICTURES]
        rows = [
            (image, captions[best[number]], captions[best[number]] == captions[number])
            for number, image in enumerate(images.cpu())
        ]
        path = folder / "matches.png"
        _sheet(rows).save(path)
        return [path]

    def export(self, folder: Path) -> dict[str, Any]:
        """The text tokenizer."""
        self.text_tokenizer.save(folder / "text_tokenizer.json")
        return {}


def _sheet(rows: list[tuple[Float[Tensor, "3 height width"], str, bool]]) -> Image.Image:
    """Pictures under each other, each beside its caption, green where it is right."""
    height, width = rows[0][0].shape[1:]
    line = max(height, 16) + 4
    sheet = Image.new("RGB", (width + 480, line * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (image, caption, right) in enumerate(rows):
        levels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(levels), (0, number * line))
        # The built-in font has no other letters.
        words = caption[:80].encode("latin-1", "replace").decode("latin-1")
        colour = "darkgreen" if right else "firebrick"
        pen.text((width + 8, number * line + line // 2 - 6), words, fill=colour)
    return sheet
