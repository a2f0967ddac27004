"""`dalle presets`: the named training runs."""

from dataclasses import dataclass

from dalle.presets import CLIP_PRESETS, DALLE_PRESETS, VAE_PRESETS


@dataclass(frozen=True, kw_only=True, slots=True)
class PresetsCommand:
    """List the named training runs, one line each.

    `dalle train vae --preset NAME --help` shows all values of one.
    """


def run(command: PresetsCommand) -> None:
    """Print them."""
    for kind, presets in (("vae", VAE_PRESETS), ("clip", CLIP_PRESETS), ("dalle", DALLE_PRESETS)):
        print(f"dalle train {kind} --preset")
        for name, preset in presets.items():
            print(f"  {name:<7}{preset.summary()}")
