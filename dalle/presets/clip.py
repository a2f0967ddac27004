"""Runs of the CLIP that ranks pictures: what a user sets, and the named ones."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dalle.presets.settings import (
    DataSettings,
    DeviceName,
    LoopSettings,
    OptimSettings,
    PresetName,
    TextSettings,
    height_and_width,
    train_config,
)

if TYPE_CHECKING:
    from dalle.models.clip import ClipConfig
    from dalle.training.clip_task import ClipObjective
    from dalle.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipModel:
    """Sizes of the two encoders."""

    image_size: tuple[int, ...]
    """Side of the pictures in pixels, or height and width."""
    embed_dim: int = 64
    """Of the space that pictures and texts share."""
    stem: tuple[int, ...] = (16, 32)
    """Channels of the convolutions before the patches, each of which halves the picture."""
    patch: int = 2
    """Side of a patch of the stem's output."""
    readout: Literal["flat", "summary"] = "summary"
    """How the patches become one vector: at a position of its own, or all through one MLP."""
    vision_width: int = 128
    vision_depth: int = 2
    vision_heads: int = 2
    text_width: int = 128
    text_depth: int = 2
    text_heads: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRun:
    """Train a CLIP on captioned pictures, to rank what a DALL·E generates."""

    preset: PresetName = "small"
    """Where the defaults below come from."""
    resume: str | None = None
    """Go on with the run of this folder, with its settings. The same command as at first does so
    too."""
    out: str | None = None
    """Folder of the run."""
    dry_run: bool = False
    """Do the step that needs the most memory, on no data, say what it took and what would fit, and
    write nothing."""
    seed: int = 0
    device: DeviceName = "auto"
    allow_change: tuple[str, ...] = ()
    """Settings that may be others than when the run began."""
    augment: bool = True
    """Random crops; without it the centre of the picture."""
    wrong_captions: int = 0
    """Nearly right captions of each picture that are further candidates for it in training."""
    data: DataSettings = field(default_factory=DataSettings)
    text: TextSettings
    model: ClipModel
    optim: OptimSettings
    loop: LoopSettings

    def model_config(self, text_vocab: int) -> "ClipConfig":
        """What the model is built from, for a tokenizer of so many entries."""
        from dalle.models.clip import ClipConfig, TowerConfig

        model = self.model
        height, width = height_and_width(model.image_size)
        return ClipConfig(
            image_height=height,
            image_width=width,
            text_vocab=text_vocab,
            text_slots=self.text.text_slots,
            embed_dim=model.embed_dim,
            stem=model.stem,
            patch=model.patch,
            readout=model.readout,
            vision=TowerConfig(
                width=model.vision_width, depth=model.vision_depth, heads=model.vision_heads
            ),
            text=TowerConfig(
                width=model.text_width, depth=model.text_depth, heads=model.text_heads
            ),
        )

    def objective_config(self) -> "ClipObjective":
        """What the task minimises."""
        from dalle.training.clip_task import ClipObjective

        return ClipObjective(
            bpe_dropout=self.text.bpe_dropout,
            long_captions=self.text.long_captions,
            augment=self.augment,
            wrong_captions=self.wrong_captions,
        )

    def train_config(self) -> "TrainConfig":
        """What the training loop is told."""
        return train_config(self.loop, self.optim, seed=self.seed, device=self.device)

    def summary(self) -> str:
        """One line for a list."""
        height, width = height_and_width(self.model.image_size)
        return (
            f"{height} x {width} pixels, {self.model.vision_depth} + {self.model.text_depth} "
            f"layers, {self.loop.steps:,} steps of {self.loop.batch_size}"
        )


CLIP_PRESETS: dict[PresetName, ClipRun] = {
    "demo": ClipRun(
        preset="demo",
        augment=False,
        wrong_captions=1,
        data=DataSettings(data="shapes"),
        text=TextSettings(text_slots=20, text_vocab=512, bpe_dropout=0.0),
        model=ClipModel(
            image_size=(32,),
            stem=(16, 32, 64),
            patch=1,
            readout="flat",
            vision_width=256,
            vision_depth=0,
            text_width=96,
        ),
        optim=OptimSettings(lr=1.5e-3, warmup=50, betas=(0.9, 0.98), weight_decay=0.05),
        loop=LoopSettings(steps=1000, batch_size=256),
    ),
    "tiny": ClipRun(
        preset="tiny",
        data=DataSettings(data="shapes", shapes=64, held_out_share=0.25),
        text=TextSettings(text_slots=16, text_vocab=280),
        model=ClipModel(
            image_size=(32,),
            embed_dim=8,
            stem=(8,),
            patch=4,
            vision_width=16,
            vision_depth=1,
            text_width=16,
            text_depth=1,
        ),
        optim=OptimSettings(lr=1e-3),
        loop=LoopSettings(
            steps=4, batch_size=8, validate_every=2, validate_samples=8, preview_every=4
        ),
    ),
    "emoji": ClipRun(
        preset="emoji",
        text=TextSettings(text_slots=40, text_vocab=4096),
        model=ClipModel(image_size=(64,), embed_dim=128, stem=(16, 32, 64), patch=1),
        optim=OptimSettings(lr=1e-3, warmup=100, final=0.02, betas=(0.9, 0.98), weight_decay=0.1),
        loop=LoopSettings(steps=1000, batch_size=128, validate_every=200),
    ),
    "small": ClipRun(
        preset="small",
        text=TextSettings(text_slots=128),
        model=ClipModel(
            image_size=(128,),
            embed_dim=256,
            stem=(32, 64, 128),
            vision_width=384,
            vision_depth=6,
            vision_heads=6,
            text_width=256,
            text_depth=4,
            text_heads=4,
        ),
        optim=OptimSettings(lr=5e-4, warmup=1000, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2),
        loop=LoopSettings(steps=50_000, batch_size=512),
    ),
    "base": ClipRun(
        preset="base",
        text=TextSettings(text_slots=256),
        model=ClipModel(
            image_size=(256,),
            embed_dim=512,
            stem=(),
            patch=16,
            vision_width=512,
            vision_depth=12,
            vision_heads=8,
            text_width=512,
            text_depth=8,
            text_heads=8,
        ),
        optim=OptimSettings(lr=5e-4, warmup=2000, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2),
        loop=LoopSettings(steps=200_000, batch_size=1024),
    ),
    # Which CLIP ranked the published pictures is not stated; this is the size and training of
    # ViT-B/16 in arXiv 2103.00020, tables 18 to 20 (32 epochs of 400 million pairs).
    "paper": ClipRun(
        preset="paper",
        text=TextSettings(text_slots=76, text_vocab=49152, bpe_dropout=0.0),
        model=ClipModel(
            image_size=(224,),
            embed_dim=512,
            stem=(),
            patch=16,
            vision_width=768,
            vision_depth=12,
            vision_heads=12,
            text_width=512,
            text_depth=12,
            text_heads=8,
        ),
        optim=OptimSettings(lr=5e-4, warmup=2000, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2),
        loop=LoopSettings(steps=390_625, batch_size=32_768),
    ),
}
