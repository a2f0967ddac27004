"""What the demo trains and how it is judged: the presets called "demo", and the numbers here.

All is counted in steps: a slower machine takes longer and does not end worse. How each number was
found: docs/results/demo.md.
"""

from dataclasses import dataclass, field

from dalle.presets import CLIP_PRESETS, DALLE_PRESETS, VAE_PRESETS
from dalle.sampling.filters import Sampling

VAE, CLIP, DALLE = VAE_PRESETS["demo"], CLIP_PRESETS["demo"], DALLE_PRESETS["demo"]
SIDE = VAE.model_config().image_height
"""Of the pictures, in pixels."""
NUM_PICTURES = 30_000
PAIRS = 0.7
"""Share of the pictures with two things, which take longer to learn."""
NUM_HELD_OUT = 256
"""Pictures of seen combinations for validation during training."""
TEXT_VOCAB = DALLE.text.text_vocab
PREVIEW_PROMPTS = (
    "a small red circle in the middle",
    "a large blue star on the left",
    "a large green square to the left of a small black ring",
    "a tiny purple cross above a big orange triangle",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """How the trained model is sampled from and judged."""

    prompts: int = 100
    """Of each of the four groups."""
    candidates: int = 16
    one: Sampling = field(default_factory=DALLE.sampling_config)
    """One sample per prompt, with the preset's own settings."""
    many: Sampling = field(default_factory=lambda: Sampling(temperature=0.85))
    """The candidates that CLIP chooses from."""


JUDGING = Judging()
