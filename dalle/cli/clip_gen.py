"""`dalle train dalle --condition clip`: what CLIP-GEN's training needs, made ready."""

from dataclasses import dataclass
from pathlib import Path

from dalle.cli.picture_codes import (
    code_settings,
    encode_once,
    image_tokenizer_folder,
    load_image_tokenizer,
)
from dalle.cli.picture_vectors import (
    ConditionClip,
    embed_once,
    load_condition_clip,
    text_vectors,
)
from dalle.cli.training_data import Parts, newest_step, open_parts, reranker_folder, say
from dalle.data.picture_vectors import WithVectors, mean_vector
from dalle.data.sources import numbered
from dalle.errors import ConfigError
from dalle.models.joint_condition import JointCondition
from dalle.presets import DalleRun
from dalle.presets.decoder import ConditionSettings
from dalle.protocols import Source
from dalle.sampling.joint_prompts import JointPrompts, read_condition
from dalle.systems.clip_gen.task import ClipGenTask
from dalle.training.neighbours import Neighbours


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A task, and what it is trained on."""

    task: ClipGenTask
    parts: Parts


def prepare_clip_gen(run: DalleRun, out: Path) -> Prepared:
    """The task of a run behind the vectors of a CLIP. No file of captions of its data is opened.

    Raises:
        ConfigError: settings that cannot work.
    """
    if run.objective.caption_order > 0:
        raise ConfigError(
            f"caption_order is {run.objective.caption_order}, and with --condition clip there are "
            "no captions to write; leave it out"
        )
    begun = newest_step(out)
    vae = image_tokenizer_folder(run.vae, begun=begun)
    image_tokenizer = load_image_tokenizer(vae, device=run.device)
    clip = load_condition_clip(run.condition.condition_clip, begun=begun, device=run.device)
    parts = open_parts(run.data, image_tokenizer.image_size, keep_empty=True, captions=False)
    if run.objective.views:
        settings, size = code_settings(run), image_tokenizer.image_size
        vectors = embed_once(parts, clip, size=size, settings=settings)
        codes = encode_once(parts, image_tokenizer, settings)
        parts = _together(codes, vectors)
    else:
        vectors = None
    condition = read_condition(begun) if begun else _condition(run.condition, clip, vectors)
    task = ClipGenTask(
        run.clip_gen_config(
            vector_size=condition.vector_size,
            codes=image_tokenizer.vocab_size,
            grid=image_tokenizer.grid,
        ),
        prompts=JointPrompts(condition, clip.embedder, folder=clip.folder),
        image_tokenizer=image_tokenizer,
        objective=run.clip_gen_objective(),
        neighbours=Neighbours(image_tokenizer=vae, reranker=reranker_folder(run.clip, begun=begun)),
        preview_prompts=run.sampling.preview_prompts,
        sampling=run.sampling_config(),
    )
    return Prepared(task=task, parts=parts)


def _together(codes: Parts, vectors: Parts) -> Parts:
    def joined(some: Source, others: Source) -> Source:
        return WithVectors(some, others)

    held_out = None
    if codes.held_out is not None and vectors.held_out is not None:
        held_out = joined(codes.held_out, vectors.held_out)
    train = [numbered(part.train, "the data set") for part in (codes, vectors)]
    return Parts(train=joined(*train), held_out=held_out)


def _condition(
    settings: ConditionSettings, clip: ConditionClip, vectors: Parts | None
) -> JointCondition:
    """The recipe that a new run begins with."""
    mean_image: tuple[float, ...] = ()
    mean_text: tuple[float, ...] = ()
    if settings.center:
        if settings.center_captions is None:
            raise ConfigError(
                "--center needs the mean of texts' vectors too: give --center-captions, a file "
                "with some captions of no matter what pictures; without any there is --xi alone"
            )
        if vectors is None:
            raise ConfigError(
                "--center needs the vectors of all pictures before training: give --views, of 1 or "
                "more"
            )
        texts = text_vectors(clip, Path(settings.center_captions).expanduser())
        mean_text = tuple(texts.mean(dim=0).tolist())
        mean_image = tuple(mean_vector(numbered(vectors.train, "the data set")).tolist())
        say(f"means of {len(texts)} captions and of the pictures to train on are subtracted")
    return JointCondition(
        clip=clip.name,
        fingerprint=clip.fingerprint,
        vector_size=clip.embedder.vector_size,
        xi=settings.xi,
        mean_image=mean_image,
        mean_text=mean_text,
    )
