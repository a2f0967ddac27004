"""Rerank with a CLIP, SigLIP or SigLIP 2 of `transformers`."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from dalle.errors import InputError
from dalle.models.fingerprint import digest_of
from dalle.models.transformers_folder import load_parts

MODEL_TYPES = ("clip", "siglip", "siglip2")
IMAGES_AT_ONCE = 32
PREPROCESSING = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_normalize", "image_mean", "image_std"),
)
"""What an image processor does to the pixels, by the names of its fields."""


class TransformersReranker:
    """A `Reranker` and `JointEmbedder`: vectors, and their cosine, after its own preprocessing.

    Pictures go through the model's PIL image processor, in 8 bits, as they would from a file.

    Args:
        where: the folder of a model with its tokenizer and its image processor. Its weights are
            read from safetensors, no code from it is run, and nothing is fetched that it names.
        device: where it works.
        images_at_once: how many pictures go through it together.

    Raises:
        InputError: there is no such model, a part of it is missing, or it is of another type.
    """

    def __init__(
        self,
        where: str | Path,
        *,
        device: str | torch.device = "cpu",
        images_at_once: int = IMAGES_AT_ONCE,
    ) -> None:
        parts = load_parts(
            where,
            loader="AutoModel",
            model_types=MODEL_TYPES,
            what="a CLIP",
            purpose="reranking",
            attention="sdpa",
            device=device,
        )
        self.model = parts.model.requires_grad_(False)
        self.tokenizer, self.processor = parts.tokenizer, parts.processor
        self.device = torch.device(device)
        self.images_at_once = images_at_once
        self.context = int(parts.config.text_config.max_position_embeddings)
        """Tokens, with those that open and close a text."""

    @property
    def vector_size(self) -> int:
        """Numbers in a vector."""
        config = self.model.config
        return int(getattr(config, "projection_dim", None) or config.text_config.projection_size)

    def fingerprint(self) -> str:
        """What changes when its weights or its preprocessing do."""
        look = self.processor.to_dict()
        said = {name: str(look.get(name)) for name in PREPROCESSING}
        return digest_of(self.model, [self.model.config.model_type, said])

    def num_tokens(self, text: str) -> int:
        """Tokens that a text has, with those for which there is no room."""
        return len(self.tokenizer(text)["input_ids"])

    @torch.no_grad()
    def score(
        self, texts: list[str], images: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, " n"]:
        """The cosine of each picture, of any size, and the text beside it, -1 to 1.

        Args:
            texts: one for each picture; what is longer than the model's context is cut. Each
                different one is encoded once.
            images: in [0, 1], on any device.

        Returns:
            Scores where the model is.
        """
        if len(texts) != len(images) or not texts:
            raise InputError(f"{len(texts)} texts came with {len(images)} pictures; expected pairs")
        different = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        features = self.encode_texts(list(different))
        beside = features[torch.tensor([different[text] for text in texts], device=self.device)]
        size = self.images_at_once
        scores = [
            (self.encode_images(chunk) * of_text).sum(dim=-1)
            for chunk, of_text in zip(images.split(size), beside.split(size), strict=True)
        ]
        return torch.cat(scores)

    def encode_texts(self, texts: list[str]) -> Float[Tensor, "n e"]:
        """Unit vectors of texts; what is longer than the model's context is cut."""
        return _unit(self.model.get_text_features(input_ids=self.text_ids(texts)))

    def encode_images(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n e"]:
        """Unit vectors of pictures in [0, 1]."""
        return _unit(self.model.get_image_features(**self.image_inputs(images)))

    def text_ids(self, texts: list[str]) -> Int[Tensor, "n context"]:
        """What the model reads of texts."""
        # Always filled up to the context and without a mask: SigLIP is trained so, and CLIP, being
        # causal and read at the end of the text, does not see what follows.
        inputs = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.context,
            return_attention_mask=False,
            return_tensors="pt",
        ).to(self.device)
        ids: Tensor = inputs["input_ids"]
        return ids

    def image_inputs(self, images: Float[Tensor, "n 3 height width"]) -> Any:
        """What the model reads of pictures, by name: pixels, of SigLIP 2 also masks and sizes."""
        levels = (images.float() * 255).round().clamp(0, 255).to("cpu", torch.uint8)
        pixels = list(rearrange(levels, "n c height width -> n height width c").numpy())
        inputs = self.processor(
            images=pixels, input_data_format="channels_last", return_tensors="pt"
        )
        return inputs.to(self.device)

    def encode_images_smoothly(
        self, images: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, "n e"]:
        """As `encode_images` but for the rounding to 8 bits, so that gradients flow through it.

        Raises:
            InputError: the model does not take pictures as one tensor of three channels.
        """
        look = self.processor
        if self.model.config.model_type == "siglip2":
            raise InputError("a SigLIP 2 reads pictures as patches; take a CLIP or SigLIP instead")
        pixels = images.to(self.device, torch.float32)
        if look.do_resize:
            pixels = _resized(pixels, look.size, resample=int(look.resample))
        if getattr(look, "do_center_crop", False):
            rows, cols = int(look.crop_size["height"]), int(look.crop_size["width"])
            top, left = (pixels.shape[2] - rows) // 2, (pixels.shape[3] - cols) // 2
            pixels = pixels[:, :, top : top + rows, left : left + cols]
        if look.do_normalize:
            mean, std = (
                torch.tensor(list(values), device=self.device).view(3, 1, 1)
                for values in (look.image_mean, look.image_std)
            )
            pixels = (pixels - mean) / std
        return _unit(self.model.get_image_features(pixel_values=pixels))


def _resized(
    images: Float[Tensor, "n 3 from_height from_width"], size: Any, *, resample: int
) -> Float[Tensor, "n 3 height width"]:
    """To a size, or to a shorter side with the aspect kept, by one of Pillow's filters."""
    height, width = images.shape[2:]
    if "shortest_edge" in size:
        short = int(size["shortest_edge"])
        scale = short / min(height, width)
        rows, cols = (short if s == min(height, width) else int(s * scale) for s in (height, width))
    else:
        rows, cols = int(size["height"]), int(size["width"])
    mode = {2: "bilinear", 3: "bicubic"}[resample]
    return F.interpolate(images, size=(rows, cols), mode=mode, antialias=True).clamp(0, 1)


def _unit(features: Any) -> Float[Tensor, "n e"]:
    """Since transformers 5 the features come wrapped, before as a tensor."""
    tensor: Tensor = features if torch.is_tensor(features) else features.pooler_output
    return F.normalize(tensor.float(), dim=-1)
