"""Image files of any size and kind -> uint8 arrays of one size. Whoever takes pictures from people reads them here.

What a pixel is worth: 8 bits stay as they are; 1, 2, 4, 12 and 16 bits are scaled, so that black and white stay black
and white (of 16 bits in colour Pillow keeps the high byte, at most one of 255 levels away); transparency is seen on
black; CMYK, YCbCr and Lab become sRGB by Pillow's formulas. Colour profiles and gamma are not applied.
"""

import io
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from flashdiff.messages import printable, say

# Between one and two times its limit Pillow warns of an attack, which people's photographs are not; above, it refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what turns the picture upright."""
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF 6.0: BitsPerSample, PhotometricInterpretation (0: white is zero), SampleFormat (1: without a sign)."""
SHOWN = 3
"""So many of the files that cannot be read are named."""


Content = str | Path | bytes | Callable[[], bytes]
"""Of an encoded image: a path, the bytes of a file, or what gives them."""


class ImageFile(NamedTuple):
    """An image that is still encoded."""

    field: str  # of the study file that asks for it, for messages
    path: str  # where it is, for people
    name: str  # its name in its collection
    content: Content


class Opened(NamedTuple):
    """A decoded picture."""

    image: Image.Image  # upright and opaque, 8 bits, of mode L where it is grey, else RGB
    size: tuple[int, int]  # width and height of the picture in the file, upright
    several: bool  # whether the file holds more pictures; this one is the first


class _UnknownRange(ValueError):
    """Pixels of which nobody can tell what is black and what is white."""


def open_image(source: Content | BinaryIO, name: str | None = None, smallest: int | None = None) -> Opened:
    """Decode one image file of any size and kind; of an animation or several pages the first picture.

    source: a path, the bytes of a file, what gives them, or an open file. Turned upright as its EXIF says, or as it
    lies where that is damaged. smallest: a JPEG may be decoded smaller, which is fast, with at least so many pixels a
    side. ValueError in one sentence with the remedy when it cannot be read; it begins with ``name``: by default the
    field data.images and the path.
    """
    try:
        source = source() if callable(source) else source
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            size, raw = opened.size, _raw_mode(opened)
            drafted = smallest is not None and opened.draft(None, (smallest, smallest))
            opened.load()
            size = size if drafted else opened.size  # Pillow turns a TIFF upright while it loads
            image, turn = _opaque(opened, raw), _turn(opened)
            if turn is not None:
                image = image.transpose(turn)
                size = size[::-1] if turn in (_UPRIGHT[5], _UPRIGHT[6], _UPRIGHT[7], _UPRIGHT[8]) else size
            return Opened(image, size, _several(opened))
    except Exception as error:  # decoders raise whatever a broken file leads them to
        name = name or f"data.images: {source if isinstance(source, str | Path) else 'an image'}"
        reason, remedy = _explained(error, source)
        raise ValueError(printable(f"{name} cannot be read ({reason}); {remedy}.")) from error


def fit(image: Image.Image, image_size: int, channels: int) -> np.ndarray:
    """A picture of mode L or RGB -> uint8 (channels, image_size, image_size).

    The largest square in the centre, resized with an antialiasing filter (Lanczos) where it has another size. channels
    is 1 (luma, ITU-R 601) or 3.
    """
    image = ImageOps.fit(
        image.convert("RGB" if channels == 3 else "L"), (image_size, image_size), Image.Resampling.LANCZOS
    )
    return np.ascontiguousarray(np.asarray(image).reshape(image_size, image_size, channels).transpose(2, 0, 1))


def read_image(
    source: Content | BinaryIO,
    image_size: int,
    channels: int,
    name: str | None = None,
    several: Callable[[str], object] = lambda name: None,
) -> np.ndarray:
    """One image file of any size and kind -> uint8 (channels, image_size, image_size).

    :func:`open_image`, then :func:`fit`. several: called with ``name`` where the file holds more pictures than the one that is taken.
    """
    if channels not in (1, 3):
        raise ValueError(f"data.channels: {channels}; give 1 (grey) or 3 (colour).")
    opened = open_image(source, name)
    if opened.several:
        several(str(name))
    return fit(opened.image, image_size, channels)


def read_images(files: Iterable[ImageFile], image_size: int, channels: int) -> Iterator[tuple[ImageFile, np.ndarray]]:
    """:func:`read_image` of every file, in their order; several decode at a time, and only a few wait in memory.

    After the first that cannot be read the others are read, too, and none is handed out any more: the ValueError at the
    end says how many there are, and why the first of them cannot.
    """
    several: list[str] = []
    problems: list[ValueError] = []
    number = 0
    for file, reading, told in _ahead(files, image_size, channels):
        number += 1
        try:
            image = reading.result()
        except ValueError as error:
            problems.append(error)
        else:
            several += [file.path] if told else []
            if not problems:
                yield file, image
    if problems:
        more = [f"In all {len(problems)} of {number} images cannot be read."] if len(problems) > 1 else []
        raise ValueError("\n".join([*map(str, problems[:SHOWN]), *more])) from problems[0]
    if several:
        say(several_taken(several))


def several_taken(names: list[str]) -> str:
    """That of files with several pictures the first was taken, in a sentence."""
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} files hold several pictures ({shown}): the first of each is taken."


def _ahead(files: Iterable[ImageFile], image_size: int, channels: int) -> Iterator[tuple[ImageFile, Future, list[str]]]:
    """Every file, its image to come, and a list that is empty unless the file holds several pictures."""
    Image.init()  # Pillow loads its decoders on first use, and another thread would meanwhile find some of them missing
    threads = min(8, os.cpu_count() or 1)  # decoding and resizing leave the interpreter to the others
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for file in files:
            name, told = f"{file.field}: {file.path}", []
            reading = pool.submit(read_image, file.content, image_size, channels, name, told.append)
            waiting.append((file, reading, told))
            if len(waiting) > 2 * threads:
                yield waiting.popleft()
        yield from waiting


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in the file, in Pillow's words; known until they are loaded."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a damaged EXIF says nothing; the pixels are good
        return None


def _several(image: Image.Image) -> bool:
    if image.format == "MPO":  # a phone's JPEG: what follows is its preview, its depth or its second lens
        return False
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # what follows the first picture is damaged
        return True


def _opaque(image: Image.Image, raw: str) -> Image.Image:
    """The picture as mode L or RGB, seen on black."""
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        raise _UnknownRange("floating-point pixels, whose range is anyone's guess")
    if any(kind != 1 for kind in tags.get(_SAMPLE_FORMAT, ())):
        raise _UnknownRange("pixels with a sign, whose range is anyone's guess")
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # Pillow scales those two to 16 bits
        raise _UnknownRange("more than 16 bits per pixel, whose range is anyone's guess")
    if image.mode.startswith("I"):
        return _eight_bits(image, tags)
    if image.mode in ("La", "RGBa"):  # multiplied by the opacity already
        return Image.merge(image.mode[:-1], image.split()[:-1])
    grey = image.mode in ("1", "L", "LA") or raw == "LA;16B"  # which Pillow decodes into mode RGBA
    solid = "L" if grey else "RGB"
    if not image.has_transparency_data:
        return image.convert(solid)
    colour = image.info.get("transparency")  # one colour that is transparent, of a PNG in the file's own bits
    if raw in ("L;2", "L;4"):
        image.info["transparency"] = colour * (85 if raw == "L;2" else 17)
    elif raw == "RGB;16B" and colour is not None:
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    image = image.convert("LA" if grey else "RGBA")
    return Image.composite(image.convert(solid), Image.new(solid, image.size), image.getchannel("A"))


def _eight_bits(image: Image.Image, tags: dict) -> Image.Image:
    """Grey with up to 16 bits -> 8; Pillow's own conversion clips, and does not scale."""
    values = np.asarray(image).astype(np.int64)
    white = 2 ** tags.get(_BITS, (16,))[0] - 1
    if tags.get(_PHOTOMETRIC) == 0:
        values = white - values
    transparent = image.info.get("transparency")
    if transparent is not None:
        values[values == transparent] = 0
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))


def _explained(error: Exception, source: object) -> tuple[str, str]:
    """Why a picture cannot be read, and the remedy."""
    again = "repair or remove it"
    match error:
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            limit = f"{2 * Image.MAX_IMAGE_PIXELS:,}".replace(",", " ")
            return (
                f"it has more than {limit} pixels, with which a small file could fill the memory",
                "save it smaller, or remove it",
            )
        case _UnknownRange():
            return str(error), "save it with 8 or 16 bits without a sign, or remove it"
        case PermissionError():
            return "you are not allowed to", "allow it (chmod u+r), or remove it"
        case FileNotFoundError():
            return "it is not there any more", "put it back, or take it out"
        case UnidentifiedImageError() if _is_empty(source):
            return "it is empty", again
        case UnidentifiedImageError():
            return "it is no image, or of a format that has to be converted first", again
    return " ".join(str(error).split()) or type(error).__name__, again


def _is_empty(source: object) -> bool:
    return source == b"" or (isinstance(source, str | Path) and os.path.getsize(source) == 0)
