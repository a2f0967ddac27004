"""Named run configs as Python values: demo, tiny (tests), emoji, small, base, paper.

They are what `dalle train` has as flags. Importing them loads no torch.
"""

from dalle.presets.clip import CLIP_PRESETS, ClipRun
from dalle.presets.dalle import DALLE_PRESETS, DalleRun
from dalle.presets.settings import PresetName
from dalle.presets.vae import VAE_PRESETS, VaeRun

__all__ = [
    "CLIP_PRESETS",
    "DALLE_PRESETS",
    "VAE_PRESETS",
    "ClipRun",
    "DalleRun",
    "PresetName",
    "VaeRun",
]
