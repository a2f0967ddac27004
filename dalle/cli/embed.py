"""`dalle embed`: pictures to vectors of a CLIP ahead of training, and the gap to those of texts."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dalle.errors import ConfigError
from dalle.presets.settings import DataSettings, DeviceName

if TYPE_CHECKING:
    from dalle.cli.picture_vectors import ConditionClip


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedCommand:
    """Turn the pictures of a data set into a CLIP's vectors, as `dalle train dalle --condition clip
    --views N` will want them. No caption is opened but for --gap.

    They go into a cache, where training finds them when it is given the same data, CLIP, crops and
    discrete VAE. What is there already is not made again; a command that was stopped goes on.
    """

    condition_clip: str
    """The CLIP: a folder or run of ours, or a CLIP or SigLIP of `transformers`, as a folder or hub
    name."""
    vae: str
    """Folder or run of the discrete VAE that training will use: the crops have its size."""
    views: int = 1
    """Crops of each picture."""
    augment: bool = True
    """Random crops; without it the centre of the picture."""
    gap: bool = False
    """Open the captions of the held-out part, and say how far texts lie from pictures."""
    device: DeviceName = "auto"
    data: DataSettings = field(default_factory=DataSettings)


def run(command: EmbedCommand) -> None:
    """Embed both parts of the data set, and say what there is."""
    from dalle.cli.picture_codes import (
        CodeSettings,
        image_tokenizer_folder,
        load_image_tokenizer,
    )
    from dalle.cli.picture_vectors import embed_once, load_condition_clip
    from dalle.cli.training_data import open_parts, say
    from dalle.data.picture_vectors import mean_vector
    from dalle.data.sources import numbered

    if command.views < 1:
        raise ConfigError(f"views is {command.views}; expected at least 1")
    vae = image_tokenizer_folder(command.vae, begun=None)
    size = load_image_tokenizer(vae, device=command.device).image_size
    clip = load_condition_clip(command.condition_clip, begun=None, device=command.device)
    parts = open_parts(command.data, size, keep_empty=True, captions=False)
    settings = CodeSettings(
        views=command.views,
        augment=command.augment,
        device=command.device,
        cache=command.data.cache,
    )
    vectors = numbered(embed_once(parts, clip, size=size, settings=settings).train, "--data")
    mean = mean_vector(vectors).norm().item()
    say(
        f"{len(vectors)} pictures to train on are in the cache, {command.views} vectors of "
        f"{clip.embedder.vector_size} numbers each, by {clip.name} ({clip.fingerprint})"
    )
    say(f"their mean has length {mean:.3f}: they lie in a narrow cone where it is near 1")
    if command.gap:
        _say_gap(command, clip, size)


def _say_gap(command: EmbedCommand, clip: "ConditionClip", size: tuple[int, int]) -> None:
    import numpy as np
    import torch

    from dalle.cli.training_data import open_parts, say
    from dalle.data.transforms import to_float
    from dalle.evaluation.captioned_set import choose
    from dalle.systems.clip_gen.gap import measure_gap

    parts = open_parts(command.data, size, keep_empty=False)
    if parts.held_out is None:
        raise ConfigError("--gap looks at held-out pictures; hold some out (--held-out-share)")
    pairs = choose(parts.held_out, num=None)
    crops = np.stack([pairs.crop(place, size) for place in pairs.picture_of])
    pixels = to_float(torch.from_numpy(crops))
    with torch.no_grad():
        images = torch.cat([clip.embedder.encode_images(part) for part in pixels.split(64)])
        texts = clip.embedder.encode_texts(list(pairs.captions))
    for line in measure_gap(images, texts).lines():
        say(line)
