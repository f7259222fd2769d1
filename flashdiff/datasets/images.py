"""Image files of any size and kind -> uint8 arrays of one size."""

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps


class ImageFile(NamedTuple):
    """An image that is still encoded."""

    field: str  # of the study file that asks for it, for messages
    path: str  # where it is, for people
    name: str  # its name in its collection
    content: str | Path | bytes  # a path, or the bytes of a file


def read_image(
    source: str | Path | bytes | BinaryIO, image_size: int, channels: int, name: str | None = None
) -> np.ndarray:
    """One image file of any size and kind -> uint8 (channels, image_size, image_size).

    source: a path, the bytes of a file, or an open file. Turned upright as its camera says, transparent parts black, 16
    bits scaled to 8, the largest square in the centre resized with an antialiasing filter (Lanczos). channels is 1
    (luma, ITU-R 601) or 3. Of an animation: the first picture. ValueError when it cannot be read; it begins with
    ``name``: by default the field data.images and the path.
    """
    if channels not in (1, 3):
        raise ValueError(f"data.channels: {channels}; give 1 (grey) or 3 (colour).")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion to 8 would clip instead of scale
                values = np.asarray(image).astype(np.int64)
                if values.min() < 0 or values.max() > 65535:
                    raise OSError("more than 16 bits per pixel")
                image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
            elif image.mode == "F":
                raise OSError("floating-point pixels, whose range is anyone's guess")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
            image = ImageOps.fit(
                image.convert("RGB" if channels == 3 else "L"), (image_size, image_size), Image.Resampling.LANCZOS
            )
    except Exception as error:  # decoders raise whatever a broken file leads them to
        name = name or f"data.images: {source if isinstance(source, str | Path) else 'an image'}"
        raise ValueError(f"{name} cannot be read ({error}); repair or remove it.") from error
    return np.ascontiguousarray(np.asarray(image).reshape(image_size, image_size, channels).transpose(2, 0, 1))


def read_images(files: Iterable[ImageFile], image_size: int, channels: int) -> Iterator[tuple[ImageFile, np.ndarray]]:
    """:func:`read_image` of every file, in their order; several decode at a time, and only a few wait in memory."""
    Image.init()  # Pillow loads its decoders on first use, and another thread would meanwhile find some of them missing
    threads = min(8, os.cpu_count() or 1)  # decoding and resizing leave the interpreter to the others
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for file in files:
            name = f"{file.field}: {file.path}"
            waiting.append((file, pool.submit(read_image, file.content, image_size, channels, name)))
            if len(waiting) > 2 * threads:
                done, image = waiting.popleft()
                yield done, image.result()
        for done, image in waiting:
            yield done, image.result()
