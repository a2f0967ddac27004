"""The one stream of positions that the transformer reads: condition, text, image."""

from dataclasses import dataclass

from dalle.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamLayout:
    """Where condition, text and image slots lie in the stream.

        [0, prefix) condition | [prefix, image_start) text | [image_start, length) image

    Image slots are in raster order over a grid of `rows` x `cols`. Image slot p holds the token
    p - 1 (slot 0 holds the start of the image) at the row and column of p, and its output
    predicts token p. All offset arithmetic of the project is here.

    Source: arXiv 2102.12092, section 2.2, appendix B.1 and figure 10 (256 + 32 x 32 = 1280).
    """

    prefix: int = 0
    text: int
    rows: int
    cols: int

    def __post_init__(self) -> None:
        for name, least in (("prefix", 0), ("text", 0), ("rows", 1), ("cols", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"layout.{name} is {value!r}; expected a whole number of at least {least}"
                )
        if self.prefix + self.text < 1:
            raise ConfigError("the stream needs a text slot or a prefix slot; both are 0")

    @property
    def image_start(self) -> int:
        """The first image slot, counted from the start of the stream."""
        return self.prefix + self.text

    @property
    def image(self) -> int:
        """How many image slots (= image tokens) there are."""
        return self.rows * self.cols

    @property
    def length(self) -> int:
        """How many slots the stream has."""
        return self.image_start + self.image

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols
