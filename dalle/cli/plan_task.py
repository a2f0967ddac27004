"""What `dalle plan` plans: a run's task with stand-ins for what it would read."""

import dataclasses
from dataclasses import dataclass

import torch

from dalle.checkpoint.load import read_config
from dalle.checkpoint.places import resolve
from dalle.cli.plan import PlanClip, PlanDalle, PlanVae
from dalle.cli.training_data import given_tokenizer
from dalle.config import from_json
from dalle.errors import ConfigError
from dalle.models.dvae import Dvae, DvaeConfig
from dalle.presets import VAE_PRESETS, ClipRun, DalleRun, VaeRun
from dalle.protocols import Batch, Task
from dalle.tokenizers.image import DvaeTokenizer
from dalle.tokenizers.text import BYTES, TextTokenizer
from dalle.training.clip_task import ClipTask
from dalle.training.dalle_task import DalleTask
from dalle.training.dvae_task import DvaeTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A task that is measured rather than trained."""

    task: Task
    sample: Batch
    """One sample, of zeros."""
    unit: str
    """What a sample is made of, for its rate."""
    units: int
    """How many of them it has."""
    tokenizer: DvaeConfig | None = None
    """The frozen discrete VAE that turns its pictures into codes at every step."""
    assumed: tuple[str, ...] = ()
    """What no flag said, in sentences."""


def planned(command: PlanVae | PlanClip | PlanDalle) -> Planned:
    """The task of a run, whose tokenizers have the sizes that were asked for, and learned nothing.

    Raises:
        ConfigError: settings that cannot work.
    """
    if isinstance(command, PlanVae):
        return _vae(command.run)
    return _clip(command.run) if isinstance(command, PlanClip) else _dalle(command.run)


def _vae(run: VaeRun) -> Planned:
    config = run.model_config()
    task = DvaeTask(config, run.objective_config(), total_steps=run.loop.steps)
    pixels = torch.zeros(1, config.image_height, config.image_width, 3, dtype=torch.uint8)
    sample = task.prepare({"image": pixels})
    return Planned(task=task, sample=sample, unit="pictures", units=1)


def _clip(run: ClipRun) -> Planned:
    tokenizer, assumed = _text_tokenizer(run)
    config, slots = run.model_config(tokenizer.vocab_size), run.text.text_slots
    objective = dataclasses.replace(run.objective_config(), wrong_captions=0)  # which reads data
    task = ClipTask(config, text_tokenizer=tokenizer, objective=objective)
    arrays = {
        "text": torch.from_numpy(tokenizer.empty_stream(slots)[None]),
        "image": torch.zeros(1, config.image_height, config.image_width, 3, dtype=torch.uint8),
    }
    if run.wrong_captions:
        arrays["wrong"] = torch.stack([arrays["text"]] * run.wrong_captions, dim=1)
    return Planned(
        task=task, sample=task.prepare(arrays), unit="pairs", units=1, assumed=(assumed,)
    )


def _dalle(run: DalleRun) -> Planned:
    if run.start_from is not None:
        raise ConfigError(
            "a plan is of a new model; leave --start-from out, and give the sizes of the one that "
            "is to be trained on"
        )
    if run.condition.condition == "clip":
        raise ConfigError(
            "a run with --condition clip cannot be planned yet; plan it without: its decoder has "
            "the same layers, over a stream that is shorter by the slots of the text"
        )
    tokenizer, words = _text_tokenizer(run)
    if run.vae is not None:
        vae = from_json(DvaeConfig, read_config(resolve(run.vae), kind="dvae")["model"])
        codes = f"pictures become codes by the discrete VAE in {run.vae}"
    else:
        vae = VAE_PRESETS[run.preset].model_config()
        codes = (
            f"no --vae was given: codes and grid are those of `dalle train vae --preset "
            f"{run.preset}`, {vae.num_codes:,} and {vae.grid[0]} x {vae.grid[1]}"
        )
    with torch.device("meta"):
        image_tokenizer = DvaeTokenizer(Dvae(vae))
    config = run.model_config(
        text_vocab=tokenizer.vocab_size, codes=vae.num_codes, grid=image_tokenizer.grid
    )
    task = DalleTask(
        config,
        text_tokenizer=tokenizer,
        image_tokenizer=image_tokenizer,
        objective=run.objective_config(),
    )
    arrays = {
        "text": torch.from_numpy(tokenizer.empty_stream(config.text_slots)[None]),
        "codes": torch.zeros(1, *image_tokenizer.grid, dtype=torch.long),
    }
    if config.both_orders:
        arrays["picture_first"] = torch.zeros(1, dtype=torch.bool)
    return Planned(
        task=task,
        sample=task.prepare(arrays),
        unit="tokens",
        units=config.layout.length,
        tokenizer=None if run.objective.views else vae,
        assumed=(words, codes),
    )


def _text_tokenizer(run: ClipRun | DalleRun) -> tuple[TextTokenizer, str]:
    given, entries = run.text.text_tokenizer, run.text.text_vocab
    if given is not None:
        return given_tokenizer(given), f"captions become tokens by {given}"
    pairs = [(one, other) for one in BYTES for other in BYTES][: max(0, entries - len(BYTES))]
    tokenizer = TextTokenizer(pairs)
    said = f"the text tokenizer has {tokenizer.vocab_size:,} entries; it learns no more from data"
    return tokenizer, said
