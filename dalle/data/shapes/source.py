"""The built-in pictures as a data set."""

from random import Random

from PIL import Image

from dalle.data.shapes.draw import SMALLEST_SIDE, draw
from dalle.data.shapes.scene import Scene, random_scene
from dalle.data.shapes.text import captions
from dalle.errors import ConfigError
from dalle.protocols import Sample


class ShapesSource:
    """Captioned pictures of one or two shapes, drawn when they are asked for.

    Sample i depends on (seed, i) and on nothing else; its scene and captions are the same at
    every picture size.

    Args:
        num_samples: how many there are.
        size: side of the pictures in pixels.
        seed: another seed gives other pictures.
        held_out: False: every pair of shape and colour is one that training shows. True: every
            picture has exactly one thing whose pair training never shows.
        pairs: share of the pictures with two things, 0 to 1.
        num_captions: how many ways to say it are drawn for each picture; repeats are dropped.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        size: int = 64,
        seed: int = 0,
        held_out: bool = False,
        pairs: float = 0.5,
        num_captions: int = 8,
    ) -> None:
        for name, value, least in (
            ("num_samples", num_samples, 1),
            ("size", size, SMALLEST_SIDE),
            ("num_captions", num_captions, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} is {value}; expected at least {least}")
        if not 0 <= pairs <= 1:
            raise ConfigError(f"pairs is {pairs}; expected a share between 0 and 1")
        self.num_samples = num_samples
        self.size = size
        self.seed = seed
        self.held_out = held_out
        self.pairs = pairs
        self.num_captions = num_captions

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int, /) -> Sample:
        """Draw sample `index`; negative numbers count from the end.

        Raises:
            IndexError: there is no such sample.
        """
        index = self._checked(index)
        random = self._random(index)
        scene = self._scene(random)
        said = captions(scene, random, num=self.num_captions)
        picture = draw(scene, random, size=self.size)
        return Sample(key=f"shapes/{index}", image=Image.fromarray(picture), captions=said)

    def scene(self, index: int) -> Scene:
        """What sample `index` shows, without drawing it."""
        return self._scene(self._random(self._checked(index)))

    def _checked(self, index: int) -> int:
        if not -self.num_samples <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples}")
        return index % self.num_samples

    def _random(self, index: int) -> Random:
        # from a string: near seeds and indices give unrelated streams
        return Random(f"shapes {self.seed} {self.held_out} {index}")

    def _scene(self, random: Random) -> Scene:
        num_things = 2 if random.random() < self.pairs else 1
        return random_scene(random, held_out=self.held_out, num_things=num_things)
