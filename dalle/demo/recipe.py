"""What the demo trains, in numbers. Counted in steps: a slower machine takes longer, not worse.

How each number was found: docs/results/demo.md.
"""

from dataclasses import dataclass, field

from dalle.models.clip import ClipConfig
from dalle.models.dalle import DalleConfig
from dalle.models.dvae import DvaeConfig
from dalle.sampling.filters import Sampling
from dalle.training.clip_task import ClipObjective
from dalle.training.dalle_task import DalleObjective
from dalle.training.dvae_task import DvaeObjective
from dalle.training.optim import OptimConfig
from dalle.training.schedules import WarmupCosine

SIDE = 32
"""Of the pictures, in pixels."""
NUM_PICTURES = 30_000
NUM_HELD_OUT = 256
"""Pictures of seen combinations for validation during training."""
TEXT_SLOTS = 24
TEXT_VOCAB = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One model's training."""

    steps: int
    batch_size: int
    optim: OptimConfig
    ema_decay: float | None = None


DVAE_CONFIG = DvaeConfig(
    image_height=SIDE,
    image_width=SIDE,
    num_codes=256,
    hidden=32,
    groups=3,
    blocks=1,
    downsampling=4,
    embed_dim=64,
    likelihood="mse",
)
DVAE_OBJECTIVE = DvaeObjective(
    kl_weight=0.144, kl_rise=0.001, kl_fall=0.5, temperature_share=0.8, augment=False
)
DVAE_STAGE = Stage(
    steps=3000,
    batch_size=32,
    optim=OptimConfig(
        lr=4e-3,
        schedule=WarmupCosine(warmup=100, final=0.01),
        betas=(0.9, 0.99),
        weight_decay=1e-4,
        clip_norm=1.0,
    ),
)


def dalle_config(text_vocab: int) -> DalleConfig:
    """The decoder for a tokenizer of that many entries."""
    rows, cols = DVAE_CONFIG.grid
    return DalleConfig(
        text_vocab=text_vocab,
        image_vocab=DVAE_CONFIG.num_codes,
        text_slots=TEXT_SLOTS,
        rows=rows,
        cols=cols,
        depth=4,
        width=128,
        heads=4,
        conv_kernel=3,
    )


DALLE_OBJECTIVE = DalleObjective(bpe_dropout=0.0, caption_dropout=0.1, augment=False)
DALLE_STAGE = Stage(
    steps=5000,
    batch_size=32,
    optim=OptimConfig(
        lr=3e-3,
        schedule=WarmupCosine(warmup=100, final=0.02),
        betas=(0.9, 0.97),
        weight_decay=0.05,
        clip_norm=1.0,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """How the trained model is sampled from and judged."""

    prompts: int = 100
    """Of each of the four groups."""
    candidates: int = 16
    one: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, guidance=1.5))
    """One sample per prompt; also what the trained model's folder says under `sampling`."""
    many: Sampling = field(default_factory=lambda: Sampling(temperature=0.85))
    """The candidates that CLIP chooses from."""


JUDGING = Judging()
