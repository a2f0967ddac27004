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

MODEL_TYPES = ("clip", "siglip", "siglip2")
IMAGES_AT_ONCE = 32
WEIGHTS = ".safetensors"
MAX_BYTES = 64 * 2**20
"""Of each file but the weights: the largest vocabulary, SigLIP 2's, has half of it."""
LOCAL = {"local_files_only": True, "trust_remote_code": False}


class TransformersReranker:
    """A `Reranker`: the cosine between picture and text, with the model's own preprocessing.

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
        self.model = model.to(device).eval()
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
        features = self._encode_texts(list(different))
        beside = features[torch.tensor([different[text] for text in texts], device=self.device)]
        size = self.images_at_once
        scores = [
            (self._encode_images(chunk) * of_text).sum(dim=-1)
            for chunk, of_text in zip(images.split(size), beside.split(size), strict=True)
        ]
        return torch.cat(scores)

    def _encode_texts(self, texts: list[str]) -> Float[Tensor, "n e"]:
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

    def _encode_images(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n e"]:
        levels = (images.float() * 255).round().clamp(0, 255).to("cpu", torch.uint8)
        pixels = list(rearrange(levels, "n c height width -> n height width c").numpy())
        inputs = self.processor(
            images=pixels, input_data_format="channels_last", return_tensors="pt"
        )
        return _unit(self.model.get_image_features(**inputs.to(self.device)))


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
