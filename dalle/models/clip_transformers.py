"""Rerank with a CLIP, SigLIP or SigLIP 2 of `transformers`."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dalle.errors import InputError
from dalle.json_files import read_json
from dalle.models.fingerprint import digest_of

MODEL_TYPES = ("clip", "siglip", "siglip2")
IMAGES_AT_ONCE = 32
WEIGHTS = ".safetensors"
PREPROCESSING = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_normalize", "image_mean", "image_std"),
)
"""What an image processor does to the pixels, by the names of its fields."""
MAX_BYTES = 64 * 2**20
"""Of each file but the weights: the largest vocabulary, SigLIP 2's, has half of it."""
LOCAL = {"local_files_only": True, "trust_remote_code": False}


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
        from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

        name = str(where)
        try:
            _check_files(Path(where))
            config: Any = AutoConfig.from_pretrained(name, **LOCAL)
            _check_type(config.model_type, name)
            if getattr(config, "quantization_config", None):
                raise ValueError("it is quantized")
            # Its own choice, in it or in one of its parts, may be a kernel on the hub: code.
            config._attn_implementation = "sdpa"
            model, found = AutoModel.from_pretrained(
                name, config=config, use_safetensors=True, output_loading_info=True, **LOCAL
            )
            if found["missing_keys"]:
                raise ValueError(f"its weights lack {sorted(found['missing_keys'])[0]!r}")
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name, **LOCAL)
            self.processor: Any = AutoImageProcessor.from_pretrained(name, backend="pil", **LOCAL)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # whatever the library meets a strange folder with
            raise InputError(
                f"{name} cannot be used as a CLIP of transformers: {_first_line(error)}"
            ) from error
        self.model = model.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.images_at_once = images_at_once
        self.context = int(config.text_config.max_position_embeddings)
        """Tokens, with those that open and close a text."""

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
    def encode_texts(self, texts: list[str]) -> Float[Tensor, "n e"]:
        """Vectors of unit length; what is longer than the context is cut."""
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
        return _unit(self.model.get_text_features(input_ids=inputs["input_ids"]))

    @torch.no_grad()
    def encode_images(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n e"]:
        """Vectors of unit length, of pictures of any size in [0, 1]."""
        levels = (images.float() * 255).round().clamp(0, 255).to("cpu", torch.uint8)
        pixels = list(rearrange(levels, "n c height width -> n height width c").numpy())
        inputs = self.processor(
            images=pixels, input_data_format="channels_last", return_tensors="pt"
        )
        return _unit(self.model.get_image_features(**inputs.to(self.device)))

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


def _check_files(folder: Path) -> None:
    """Look at what the library would trust: sizes, and which files are said to hold weights."""
    if not folder.is_dir():
        raise ValueError("there is no such folder")
    for path in folder.iterdir():
        if path.suffix != WEIGHTS and path.is_file() and path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes; at most {MAX_BYTES}")
    for path in folder.glob("*.index.json"):
        for name in map(str, read_json(path)["weight_map"].values()):
            if not name.endswith(WEIGHTS) or "/" in name or "\\" in name:
                raise ValueError(f"{path.name} names {name!r}, not weights beside it")


def _check_type(model_type: str, name: str) -> None:
    if model_type not in MODEL_TYPES:
        raise InputError(
            f"{name} is a model of type {model_type!r}; for reranking it takes one of "
            f"{', '.join(MODEL_TYPES)}"
        )


def _unit(features: Any) -> Float[Tensor, "n e"]:
    """Since transformers 5 the features come wrapped, before as a tensor."""
    tensor: Tensor = features if torch.is_tensor(features) else features.pooler_output
    return F.normalize(tensor.float(), dim=-1)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
