"""The models together: from prompts to ranked pictures, from beginnings to captions."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Unpack

from PIL import Image

from dalle.errors import InputError
from dalle.models.captioning import CaptionDecoder
from dalle.processes import ALONE, Processes
from dalle.protocols import Decoder, ImageTokenizer, Reranker, TextDecoder
from dalle.sampling.again import paint_again
from dalle.sampling.captions import GivenImage, caption_images, encode_images, weigh_captions
from dalle.sampling.filters import Sampling
from dalle.sampling.image_prompt import encode_prompt
from dalle.sampling.joint_prompts import VectorPrompt, joint_prompts
from dalle.sampling.likelihood import LogLikelihood
from dalle.sampling.painting import paint
from dalle.sampling.picture import Origin, Picture, PictureRecord
from dalle.sampling.prompts import without_surrogates
from dalle.sampling.request import Request, Wishes, wanted_of
from dalle.sampling.save import save_parts
from dalle.sampling.texts import complete_text
from dalle.sampling.work import Parts, Plan
from dalle.tokenizers.kinds import PromptTokenizer


class Pipeline:
    """A decoder with its tokenizers and, where there is one, a reranker.

    Args:
        model: the decoder, in evaluation mode.
        text_tokenizer: of the decoder.
        image_tokenizer: of the decoder, on the same device.
        reranker: ranks pictures; without one the model's own ln p(picture | text) does.
        sampling: the settings where a request names none; None: the published ones.
        origin: what the files of pictures are to say of the model.
        processes: who shares the work (`dalle.launched.joined`), each with such a pipeline, and
            calls the same methods. The main process gets the pictures, the others empty lists.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        text_tokenizer: PromptTokenizer,
        image_tokenizer: ImageTokenizer,
        reranker: Reranker | None = None,
        sampling: Sampling | None = None,
        origin: Origin | None = None,
        processes: Processes = ALONE,
    ) -> None:
        for name, mine, theirs in (
            ("grid", model.layout.grid, tuple(image_tokenizer.grid)),
            ("number of codes", model.image_vocab, image_tokenizer.vocab_size),
            ("number of text tokens", model.text_vocab, text_tokenizer.vocab_size),
        ):
            if mine != theirs:
                raise InputError(
                    f"the {name} is {mine} in the model and {theirs} in its tokenizer; take the "
                    "tokenizer that the model was trained with"
                )
        self.model = model
        self.text_tokenizer = text_tokenizer
        self.image_tokenizer = image_tokenizer
        self.reranker = reranker
        self.sampling = sampling or Sampling()
        self.origin = origin or Origin()
        self.processes = processes

    def generate(
        self,
        prompt: str,
        *,
        progress: Callable[[int], None] | None = None,
        **wishes: Unpack[Wishes],
    ) -> list[Picture]:
        """Pictures of a prompt, the best first.

        Args:
            prompt: any text; an empty one gives pictures without a condition, and what is too
                long is cut with a `PromptCutWarning`.
            progress: called with the number of codes just sampled, num_tokens() in all.
            wishes: num_samples, keep, seed, temperature, top_k, top_p, guidance, image, rect,
                rank_by, launch, graph: see `Request`.

        Raises:
            InputError: a setting or the given picture cannot be used.
            OutOfMemoryError: even half a launch is too much for the device.
            RankError: another process failed or is gone.
        """
        return next(self.generate_each([prompt], Request(**wishes), progress=progress))

    def generate_many(
        self,
        prompts: Sequence[str],
        *,
        progress: Callable[[int], None] | None = None,
        **wishes: Unpack[Wishes],
    ) -> list[list[Picture]]:
        """As `generate`, for each of several prompts, which are sampled together."""
        return list(self.generate_each(prompts, Request(**wishes), progress=progress))

    def generate_each(
        self,
        prompts: Sequence[str | VectorPrompt],
        request: Request,
        *,
        seeds: Sequence[int] | None = None,
        num_samples: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[list[Picture]]:
        """As `generate_many`, one prompt after another, so that no more is held than is used.

        Args:
            prompts: texts; or, of `variation` and `between`, vectors in place of some.
            seeds: the seed of each prompt, in place of the request's one.
            num_samples: likewise how many pictures of each; `keep` keeps as many where there are.
        """
        wanted = wanted_of(prompts, request, seeds=seeds, num_samples=num_samples)
        if request.rank_by == "clip" and self.reranker is None:
            raise InputError("rank_by is clip, but no CLIP came with the model; give one to load")
        given = None
        if request.image is not None and request.rect is not None:
            given = encode_prompt(
                request.image, request.rect, self.image_tokenizer, self.model.device
            )
        plan = Plan(
            request=request,
            sampling=request.sampling(self.sampling),
            given=given,
            progress=progress,
        )
        return paint(self._parts, wanted, plan)

    def again(self, record: PictureRecord) -> Picture:
        """The picture of which a PNG file (`read_metadata`) says how it was made."""
        return paint_again(self._parts, record)

    def variation(self, image: Image.Image | str | Path) -> VectorPrompt:
        """What stands in place of a prompt for pictures like a given one, of which the largest
        central part of the model's aspect counts.

        Raises:
            InputError: the model reads texts alone, or the picture cannot be read.
        """
        size = self.image_tokenizer.image_size
        return joint_prompts(self.text_tokenizer).of_image(image, image_size=size)

    def between(self, first: str, second: str, *, steps: int) -> list[VectorPrompt]:
        """What stands in place of prompts for pictures on the way from one prompt to another.

        Raises:
            InputError: the model reads texts alone, or steps is below 2.
        """
        first, second = without_surrogates(first), without_surrogates(second)
        return joint_prompts(self.text_tokenizer).between(first, second, steps=steps)

    def complete_text(
        self,
        beginning: str,
        *,
        num_samples: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> list[str]:
        """Captions that begin so, as the model goes on with them; text i has the seed `seed + i`.

        The beginning comes back as the tokenizer reads it: lower-cased, where that is its way.

        Raises:
            InputError: the model reads texts and writes none.
        """
        if not isinstance(self.model, TextDecoder):
            raise InputError(
                f"a {type(self.model).__name__} writes no captions; take a model that does, as "
                "those trained with train_dalle.py"
            )
        Request(num_samples=num_samples, seed=seed)  # checks their ranges
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        ids = self.text_tokenizer.encode(without_surrogates(beginning))
        seeds = [seed + i for i in range(num_samples)]
        texts = complete_text(self.model, ids, seeds=seeds, sampling=sampling)
        return [self.text_tokenizer.decode(text) for text in texts]

    def caption(
        self,
        image: GivenImage,
        *,
        num_samples: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> list[str]:
        """Captions of a picture, by a model of both orders; caption i has the seed `seed + i`.

        Raises:
            InputError: the model was not trained to write captions; a setting or the picture
                cannot be used.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        [captions] = self.caption_many(
            [image], num_samples=num_samples, seed=seed, sampling=sampling
        )
        return captions

    def caption_many(
        self,
        images: Sequence[GivenImage],
        *,
        num_samples: int = 1,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> list[list[str]]:
        """As `caption`, for each of several pictures, whose captions are written together."""
        Request(num_samples=num_samples, seed=seed)  # checks their ranges
        return caption_images(
            CaptionDecoder(self.model),
            encode_images(images, self.image_tokenizer, self.model.device),
            self.text_tokenizer,
            num_samples=num_samples,
            seed=seed,
            sampling=sampling or Sampling(),
        )

    def log_likelihoods(self, image: GivenImage, captions: Sequence[str]) -> list[LogLikelihood]:
        """ln p(picture | caption) for each caption, by any model; the highest explains it best."""
        if isinstance(captions, str):
            raise InputError("captions is one string; expected a list of captions")
        codes = encode_images([image], self.image_tokenizer, self.model.device)
        return weigh_captions(self.model, codes, captions, self.text_tokenizer)

    def save(self, folder: str | Path) -> Path:
        """Write a model folder that is enough to generate from, with the weights in use.

        The decoder is written in the dtype it is held in. The reranker goes along if it is one of
        our CLIPs, or came from a folder.

        Raises:
            SaveError: it cannot be written.
            InputError: `folder` holds something else, or a part is none of our models.
        """
        return save_parts(self._parts, self.sampling, folder)

    def num_tokens(self, num_prompts: int, request: Request) -> int:
        """How many codes are sampled for a request, for a progress bar."""
        return num_prompts * request.num_samples * self.model.layout.image

    @property
    def _parts(self) -> Parts:
        return Parts(
            model=self.model,
            text_tokenizer=self.text_tokenizer,
            image_tokenizer=self.image_tokenizer,
            reranker=self.reranker,
            origin=self.origin,
            processes=self.processes,
        )
