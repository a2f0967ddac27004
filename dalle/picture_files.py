"""Picture files to RGB pictures, under a guard: no file is to be trusted."""

import io
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from dalle.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""Further decoders of Pillow are not reached: some run other programs (EPS) or keep state."""
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})
MAX_PIXELS = 64_000_000
MAX_BYTES = 32 * 2**20

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    source: Path | bytes,
    *,
    name: str | None = None,
    at_least: int | None = None,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Image.Image:
    """Decode a JPEG, PNG, WebP or GIF, recognised by its content, as an upright RGB picture.

    The first frame is taken; transparent parts show white; 16-bit grey is scaled to 8; the
    orientation in the EXIF block is applied, and a damaged EXIF block or colour profile ignored.

    Args:
        source: the file or its content.
        name: how errors call it; by default the path.
        at_least: the shorter side that is needed; a JPEG may be decoded at 1/2, 1/4 or 1/8 of its
            size as long as its shorter side has that many pixels.
        max_pixels: more are refused by the header, before anything is decoded.
        max_bytes: longer files are refused.

    Raises:
        DataError: the file cannot be read, is of another kind, cut off, damaged or too large.
    """
    name = name if name is not None else "a picture" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else read_bytes(source, name=name, at_most=max_bytes)
    if len(data) > max_bytes:
        raise DataError(f"{name!r} has {len(data)} bytes; at most {max_bytes} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd metadata, and on size: our limit is lower
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise DataError(
                        f"{name!r} has {image.width} x {image.height} pixels; "
                        f"at most {max_pixels} are decoded"
                    )
                if at_least is not None:
                    image.draft(None, (at_least, at_least))
                image.load()
                return upright_rgb(image)
    except (DataError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        raise DataError(f"{name!r} is no JPEG, PNG, WebP or GIF") from None
    except Exception as error:  # decoders meet damaged files with errors of every kind
        why = str(error) or type(error).__name__
        raise DataError(f"{name!r} cannot be decoded: {why}") from None


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened picture as a viewer shows it: turned as its EXIF block says, transparent on white.

    Raises:
        DataError: its pixels are numbers of unknown range.
    """
    return _to_rgb(_upright(image))


def read_bytes(path: Path, *, name: str, at_most: int = MAX_BYTES) -> bytes:
    """A regular file of bounded length.

    Raises:
        DataError: it cannot be read, is no regular file, or is longer.
    """
    try:
        # Asked before opening: opening a pipe would wait for ever.
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise DataError(f"{name!r} is not a regular file")
        if info.st_size > at_most:
            raise DataError(f"{name!r} has {info.st_size} bytes; at most {at_most} are read")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{name!r} cannot be read: {error.strerror}") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged block says nothing about the orientation
        return image
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise DataError("pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        page = Image.new("RGB", colours.size, "white")
        page.paste(colours, mask=colours)
        return page
    # `convert` copies pixels that are as wanted already, which takes a twentieth of decoding.
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey of 0..65535 scaled to 0..255: Pillow's own conversion would clip it to white."""
    grey = np.asarray(image).astype(np.int64)
    scaled = ((grey.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[grey == transparent] = 255
    return Image.fromarray(scaled).convert("RGB")
