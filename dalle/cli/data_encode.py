"""`dalle data encode`: pictures to codes ahead of training, on many processes."""

import multiprocessing
import os
from dataclasses import dataclass, field, replace

from dalle.errors import ConfigError, DataError
from dalle.presets.settings import DataSettings, DeviceName


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeCommand:
    """Turn the pictures of a data set into codes, as `dalle train dalle --views N` will want them.

    They go into the token cache, where training finds them when it is given the same data, discrete
    VAE, views and crops. What is there already is not made again; a command that was stopped goes
    on.
    """

    vae: str
    """Folder or run of the discrete VAE."""
    text_tokenizer: str | None = None
    """Folder of a model, or a text_tokenizer.json: captions become its ids, too. Without it the
    first run does that."""
    views: int = 1
    """Crops of each picture."""
    augment: bool = True
    """Random crops; without it the centre of the picture."""
    keep_empty: bool = False
    """Also pictures without a caption."""
    processes: int = 1
    """How many work at once; each loads the discrete VAE."""
    device: DeviceName = "auto"
    data: DataSettings = field(default_factory=DataSettings)


def run(command: EncodeCommand) -> None:
    """Encode both parts of the data set."""
    if command.views < 1 or command.processes < 1:
        raise ConfigError("views and processes are at least 1")
    if command.processes == 1:
        _encode(command, 0)
        return
    # New interpreters: a device that is in use does not survive a fork.
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_quietly, args=(command, part), name=f"encode {part}")
        for part in range(1, command.processes)
    ]
    for worker in workers:
        worker.start()
    try:
        _encode(command, 0)
    finally:
        for worker in workers:
            worker.join(timeout=60)
            if worker.is_alive():
                worker.terminate()
    failed = [worker.name for worker in workers if worker.exitcode]
    if failed:
        raise DataError(
            f"{', '.join(failed)} failed, and the others did their work; the lines above say why"
        )


def _quietly(command: EncodeCommand, part: int) -> None:
    os.environ["RANK"] = str(part)  # only the first one speaks
    _encode(replace(command), part)


def _encode(command: EncodeCommand, part: int) -> None:
    import torch

    from dalle.cli.picture_codes import (
        CodeSettings,
        cache_folder,
        encode_once,
        image_tokenizer_folder,
        load_image_tokenizer,
    )
    from dalle.cli.training_data import given_tokenizer, open_parts, say
    from dalle.data.sources import numbered

    if command.processes > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // command.processes))
    folder = image_tokenizer_folder(command.vae, begun=None)
    tokenizer = load_image_tokenizer(folder, device=command.device)
    parts = open_parts(
        command.data,
        tokenizer.image_size,
        keep_empty=command.keep_empty,
        cache=cache_folder(command.data.cache),
    )
    text = command.text_tokenizer
    wanted = CodeSettings(
        views=command.views,
        augment=command.augment,
        device=command.device,
        cache=command.data.cache,
        text=None if text is None else given_tokenizer(text),
        part=part,
        parts=command.processes,
    )
    encoded = encode_once(parts, tokenizer, wanted)
    say(f"{len(numbered(encoded.train, '--data'))} pictures to train on are in the token cache")
