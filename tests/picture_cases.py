"""Pictures in every format, mode and bit depth, written by hand where that is possible, with the pixels that they show.

What is right is computed here from the definitions of the formats, and from no reader: 16 bits v are v / 257, transparency is
seen on black, CMYK is (1 - C)(1 - K), YCbCr is JFIF's, Lab is CIE's under D50 into sRGB.
"""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 8


@dataclass(frozen=True)
class Case:
    """An encoded picture; rgb (SIDE, SIDE, 3), the values 0..255 that are right, and how far off a reader may be."""

    name: str
    suffix: str
    content: bytes
    rgb: np.ndarray
    within: float = 0.51

    def __str__(self) -> str:
        return self.name

    def wrong(self, read: np.ndarray) -> float:
        """How far uint8 (1 or 3, SIDE, SIDE) is from what is right, at most; grey is the luma of ITU-R 601."""
        right = self.rgb.transpose(2, 0, 1)
        if len(read) == 1:
            right = (np.array([0.299, 0.587, 0.114]) @ self.rgb[..., None])[None, ..., 0]
        return float(np.abs(read.astype(float) - right).max())


def numbers(name: str, high: int, *shape: int) -> np.ndarray:
    """Other numbers 0..high for every name, both ends among them."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).integers(0, high + 1, (SIDE, SIDE, *shape))
    draw[0, 0], draw[0, 1] = 0, high
    return draw


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


# ------------------------------------------------------------------------------------------------------------------ PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(values: np.ndarray, bits: int, order: str = ">") -> list[bytes]:
    """The rows of (H, W) or (H, W, bands) as bytes, samples of so many bits from the highest bit on."""
    rows = values.reshape(len(values), -1)
    if bits == 16:
        return [row.astype(f"{order}u2").tobytes() for row in rows]
    if bits == 12:
        return [_twelve(row) for row in rows]
    return [np.packbits((row[:, None] >> np.arange(bits)[::-1]) & 1).tobytes() for row in rows]


def _twelve(row: np.ndarray) -> bytes:
    return np.packbits((row[:, None] >> np.arange(12)[::-1]) & 1).tobytes()


def png(values: np.ndarray, bits: int, colour_type: int, extra: bytes = b"") -> bytes:
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in packed(values, bits)))
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def pngs() -> list[Case]:
    made = []
    for bits in (1, 2, 4, 8, 16):
        high = 2**bits - 1
        name = f"png grey {bits} bits"
        v = numbers(name, high)
        made.append(Case(name, ".png", png(v, bits, 0), three(v * 255 / high)))
        name = f"png grey {bits} bits, one value transparent"
        v = numbers(name, high)
        hidden = int(v[3, 3])
        seen = np.where(v == hidden, 0, v) * 255 / high
        made.append(Case(name, ".png", png(v, bits, 0, chunk(b"tRNS", struct.pack(">H", hidden))), three(seen)))
    for bits, high, within in ((8, 255, 0.51), (16, 65535, 1.01)):
        name = f"png colour {bits} bits"
        v = numbers(name, high, 3)
        made.append(Case(name, ".png", png(v, bits, 2), v * 255 / high, within))
        name = f"png colour {bits} bits, one colour transparent"
        v = numbers(name, high, 3)
        hidden = v[3, 3]
        seen = np.where((v == hidden).all(-1, keepdims=True), 0, v) * 255 / high
        made.append(Case(name, ".png", png(v, bits, 2, chunk(b"tRNS", struct.pack(">3H", *hidden))), seen, within))
        name = f"png grey and alpha {bits} bits"
        v = numbers(name, high, 2)
        made.append(Case(name, ".png", png(v, bits, 4), three(v[..., 0] / high * v[..., 1] / high * 255), 2 * within))
        name = f"png colour and alpha {bits} bits"
        v = numbers(name, high, 4)
        made.append(Case(name, ".png", png(v, bits, 6), v[..., :3] / high * v[..., 3:] / high * 255, 2 * within))
    for bits in (1, 2, 4, 8):
        for alpha in (False, True):
            name = f"png palette {bits} bits{', transparent' if alpha else ''}"
            v, palette = numbers(name, 2**bits - 1), numbers(f"{name} colours", 255, 4).reshape(-1, 4)
            palette = np.concatenate([palette] * 4)[: 2**bits]
            extra = chunk(b"PLTE", palette[:, :3].astype(np.uint8).tobytes())
            extra += chunk(b"tRNS", palette[:, 3].astype(np.uint8).tobytes()) if alpha else b""
            opacity = palette[:, 3:] / 255 if alpha else 1
            made.append(Case(name, ".png", png(v, bits, 3, extra), (palette[:, :3] * opacity)[v]))
    return made


# ----------------------------------------------------------------------------------------------------------------- TIFF


def tiff(strip: bytes, tags: dict[int, object], order: str = "<", height: int = SIDE, width: int = SIDE) -> bytes:
    """One strip without compression; tags beyond the obligatory ones by number, each a whole number or several."""
    entries = {256: width, 257: height, 259: 1, 273: 8, 278: height, 279: len(strip), **tags}
    data = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(strip) + len(strip) % 2)
    data += strip + b"\0" * (len(strip) % 2)
    after = len(data) + 2 + 12 * len(entries) + 4
    table, rest = struct.pack(f"{order}H", len(entries)), b""
    for tag, value in sorted(entries.items()):
        values = list(value) if isinstance(value, list | tuple) else [value]
        kind, size = ("I", 4) if tag in (273, 279) else ("H", 2)
        packed_values = struct.pack(f"{order}{len(values)}{kind}", *values)
        table += struct.pack(f"{order}HHI", tag, 4 if kind == "I" else 3, len(values))
        if size * len(values) <= 4:
            table += packed_values.ljust(4, b"\0")
        else:
            table += struct.pack(f"{order}I", after + len(rest))
            rest += packed_values
    return data + table + struct.pack(f"{order}I", 0) + rest


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """L* 0..100, a*, b* under D50 -> sRGB 0..255 (CIE 15; Bradford; IEC 61966-2-1)."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1.0, 0.8249]
    linear = xyz @ np.array([[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540],
                             [0.0719453, -0.2289914, 1.4052427]]).T  # fmt: skip
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def jfif(v: np.ndarray) -> np.ndarray:
    """Y, Cb, Cr 0..255 -> RGB 0..255."""
    y, cb, cr = v[..., 0], v[..., 1] - 128.0, v[..., 2] - 128.0
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1).clip(0, 255)


def tiffs() -> list[Case]:
    made = []
    for order, endian in (("<", "little"), (">", "big")):
        for bits in (1, 4, 8, 12, 16):
            for photometric, white in ((1, "black is zero"), (0, "white is zero")):
                if (bits == 12 and (order, photometric) != ("<", 1)) or (
                    bits == 16 and (order, photometric) == (">", 0)
                ):
                    continue  # formats that Pillow does not know; see REFUSED
                name = f"tiff grey {bits} bits, {white}, {endian} endian"
                high = 2**bits - 1
                v = numbers(name, high)
                content = tiff(b"".join(packed(v, bits, order)), {258: bits, 262: photometric}, order)
                made.append(Case(name, ".tif", content, three((v if photometric else high - v) * 255 / high)))
        for bits, high, within in ((8, 255, 0.51), (16, 65535, 1.01)):
            name = f"tiff colour {bits} bits, {endian} endian"
            v = numbers(name, high, 3)
            content = tiff(b"".join(packed(v, bits, order)), {258: [bits] * 3, 262: 2, 277: 3}, order)
            made.append(Case(name, ".tiff", content, v * 255 / high, within))
            for extra, alpha in ((0, "a band more"), (1, "multiplied alpha"), (2, "alpha")):
                name = f"tiff colour {bits} bits and {alpha}, {endian} endian"
                v = numbers(name, high, 4)
                if extra == 1:
                    v[..., :3] = v[..., :3] * v[..., 3:] // high
                content = tiff(b"".join(packed(v, bits, order)), {258: [bits] * 4, 262: 2, 277: 4, 338: extra}, order)
                seen = v[..., :3] / high * (v[..., 3:] / high if extra == 2 else 1) * 255
                made.append(Case(name, ".tif", content, seen, 2 * within))
        for extra, alpha in ((0, "a band more"), (1, "multiplied alpha"), (2, "alpha")):
            name = f"tiff grey and {alpha}, {endian} endian"
            v = numbers(name, 255, 2)
            if extra == 1:
                v[..., 0] = v[..., 0] * v[..., 1] // 255
            content = tiff(b"".join(packed(v, 8, order)), {258: [8] * 2, 262: 1, 277: 2, 338: extra}, order)
            seen = v[..., 0] * (v[..., 1] / 255 if extra == 2 else 1)
            made.append(Case(name, ".tif", content, three(seen)))
        for bits in (1, 4, 8):
            name = f"tiff palette {bits} bits, {endian} endian"
            v, palette = numbers(name, 2**bits - 1), np.random.default_rng(bits).integers(0, 256, (2**bits, 3))
            tags = {258: bits, 262: 3, 320: [int(x) * 257 for x in palette.T.ravel()]}
            made.append(Case(name, ".tif", tiff(b"".join(packed(v, bits)), tags, order), palette[v].astype(float)))
        for bits, high, within in ((8, 255, 1.01), (16, 65535, 2.01)):
            name = f"tiff CMYK {bits} bits, {endian} endian"
            v = numbers(name, high, 4)
            content = tiff(b"".join(packed(v, bits, order)), {258: [bits] * 4, 262: 5, 277: 4}, order)
            made.append(Case(name, ".tif", content, (1 - v[..., :3] / high) * (1 - v[..., 3:] / high) * 255, within))
        name = f"tiff YCbCr, {endian} endian"
        v = np.concatenate([numbers(name, 255, 1), numbers(f"{name} colours", 60, 2) + 98], -1)
        content = tiff(b"".join(packed(v, 8)), {258: [8] * 3, 262: 6, 277: 3, 530: [1, 1]}, order)
        made.append(Case(name, ".tif", content, jfif(v), 1.01))
    name = "tiff Lab"
    lab = np.concatenate([numbers(name, 50, 1) + 30, numbers(f"{name} colours", 24, 2) - 12], -1)
    lab[0, :2] = [[0, 0, 0], [100, 0, 0]]
    stored = np.round(lab * [2.55, 1, 1]).astype(np.int64) & 255
    exact = np.where(np.arange(3) == 0, stored / 2.55, lab)
    content = tiff(b"".join(packed(stored, 8)), {258: [8] * 3, 262: 8, 277: 3})
    made.append(Case(name, ".tif", content, lab_to_srgb(exact), 2.01))
    return made


# ------------------------------------------------------------------------------------------------------------ PNM, BMP


def pnms() -> list[Case]:
    made = []
    for high in (1, 15, 255, 1023, 65535):
        wide = ">u2" if high > 255 else "u1"
        for bands, plain, raw, kind in ((1, b"P2", b"P5", "grey"), (3, b"P3", b"P6", "colour")):
            for magic in (plain, raw):
                name = f"{magic.decode()} {kind} up to {high}"
                v = numbers(name, high, bands)
                data = b" ".join(b"%d" % x for x in v.ravel()) if magic == plain else v.astype(wide).tobytes()
                suffix = ".pgm" if bands == 1 else ".ppm"
                seen = np.broadcast_to(v * 255 / high, (SIDE, SIDE, 3))
                made.append(Case(name, suffix, magic + b"\n# c\n%d %d\n%d\n" % (SIDE, SIDE, high) + data, seen))
    for magic in (b"P1", b"P4"):
        name = f"{magic.decode()} black and white"
        v = numbers(name, 1)  # 1 is black
        data = b" ".join(b"%d" % x for x in v.ravel()) if magic == b"P1" else b"".join(packed(v, 1))
        made.append(Case(name, ".pbm", magic + b"\n%d %d\n" % (SIDE, SIDE) + data, three((1 - v) * 255.0)))
    return made


def bmp(rows: list[bytes], bits: int, palette: bytes = b"", masks: tuple[int, ...] = (), down: bool = False) -> bytes:
    """Rows from the top; masks: those of red, green, blue and alpha, in a header of version 4."""
    header = struct.pack(
        "<iiHHIIiiII", SIDE, -SIDE if down else SIDE, 1, bits, 3 if masks else 0, 0, 0, 0, len(palette) // 4, 0
    )
    header += struct.pack("<4I", *masks) + b"BGRs" + b"\0" * 48 if masks else b""
    header = struct.pack("<I", 4 + len(header)) + header
    data = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in (rows if down else rows[::-1]))
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def bmps() -> list[Case]:
    made = []
    for bits in (1, 4, 8):
        name = f"bmp palette {bits} bits"
        v, palette = numbers(name, 2**bits - 1), np.random.default_rng(bits).integers(0, 256, (2**bits, 3))
        colours = b"".join(bytes([int(b), int(g), int(r), 0]) for r, g, b in palette)
        made.append(Case(name, ".bmp", bmp(packed(v, bits), bits, colours), palette[v].astype(float)))
    name = "bmp 5 bits a colour"
    v = numbers(name, 31, 3)
    rows = [(r[:, 0] << 10 | r[:, 1] << 5 | r[:, 2]).astype("<u2").tobytes() for r in v]
    made.append(Case(name, ".bmp", bmp(rows, 16), v * 255 / 31, 1.01))
    for down in (False, True):
        name = f"bmp colour{', from the top' if down else ''}"
        v = numbers(name, 255, 3)
        made.append(Case(name, ".bmp", bmp(packed(v[..., ::-1], 8), 24, down=down), v.astype(float)))
        name = f"bmp colour and a byte{', from the top' if down else ''}"
        v = numbers(name, 255, 4)
        made.append(Case(name, ".bmp", bmp(packed(v[..., [2, 1, 0, 3]], 8), 32, down=down), v[..., :3].astype(float)))
    name = "bmp colour and alpha"
    v = numbers(name, 255, 4)
    rows, masks = packed(v[..., [2, 1, 0, 3]], 8), (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    made.append(Case(name, ".bmp", bmp(rows, 32, masks=masks), v[..., :3] * v[..., 3:] / 255))
    return made


# --------------------------------------------------------------------------- formats that only a library writes


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


LOSSLESS = {
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
    ".jp2": ("JPEG2000", {}),
    ".tga": ("TGA", {}),
    ".qoi": ("QOI", {}),
    ".pcx": ("PCX", {}),
    ".gif": ("GIF", {}),
}
MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def others() -> list[Case]:
    made = []
    for suffix, (kind, options) in LOSSLESS.items():
        for mode, bands in MODES.items():
            if (suffix, mode) in {
                (".qoi", "L"),
                (".qoi", "LA"),
                (".pcx", "LA"),
                (".pcx", "RGBA"),
                (".gif", "LA"),
                (".gif", "RGBA"),
            }:
                continue
            name = f"{suffix[1:]} {mode}"
            v = numbers(name, 255, bands).astype(np.uint8)
            if suffix == ".gif":  # 64 colours fit
                v[...] = numbers(name, 3, bands) * 85
            content = saved(Image.fromarray(v[..., 0] if bands == 1 else v, mode), kind, **options)
            colours = v if bands > 2 else np.repeat(v[..., :1], 3, axis=-1)
            alpha = v[..., -1:] / 255 if mode.endswith("A") else 1
            made.append(Case(name, suffix, content, colours[..., :3] * alpha))
    name = "jp2 grey 16 bits"
    v = numbers(name, 65535)
    made.append(Case(name, ".jp2", saved(Image.fromarray(v.astype(np.uint16)), "JPEG2000"), three(v / 257)))
    name = "gif with a transparent colour"
    v, palette = numbers(name, 3), np.array([[200, 10, 30], [5, 250, 90], [70, 80, 90], [1, 2, 250]])
    image = Image.fromarray(v.astype(np.uint8), "P")
    image.putpalette(palette.ravel().tolist())
    seen = np.where((v == 2)[..., None], 0, palette[v]).astype(float)
    made.append(Case(name, ".gif", saved(image, "GIF", transparency=2), seen))
    # of one colour, so that what is lost is the rounding alone
    for kind, suffix, within in (
        ("JPEG", ".jpg", 2.01),
        ("WEBP", ".webp", 4.01),
        ("AVIF", ".avif", 4.01),
        ("MPO", ".jpeg", 2.01),
    ):
        name = f"{suffix[1:]} {kind}, one colour"
        colour = numbers(name, 255, 3)[4, 4]
        flat = np.broadcast_to(colour, (SIDE, SIDE, 3))
        options = {"subsampling": 0} if kind in ("JPEG", "MPO") else {}
        content = saved(Image.fromarray(np.ascontiguousarray(flat, np.uint8)), kind, quality=100, **options)
        made.append(Case(name, suffix, content, flat.astype(float), within))
    made.append(
        Case(
            "jpg grey",
            ".jpg",
            saved(Image.new("L", (SIDE, SIDE), 77), "JPEG", quality=100),
            np.full((SIDE, SIDE, 3), 77.0),
            1.01,
        )
    )
    ink = np.array([30, 90, 200, 40])
    flat = np.broadcast_to((255 - ink[:3]) * (255 - ink[3]) / 255, (SIDE, SIDE, 3))
    made.append(
        Case(
            "jpg CMYK",
            ".jpg",
            saved(Image.new("CMYK", (SIDE, SIDE), tuple(ink.tolist())), "JPEG", quality=100),
            flat,
            3.01,
        )
    )
    return made


CASES = [*pngs(), *tiffs(), *pnms(), *bmps(), *others()]


def _refused() -> dict[str, tuple[str, bytes, str]]:
    good = png(numbers("refused", 255), 8, 0)
    return {
        "nothing": (".png", b"", r"it is empty\); repair or remove it"),
        "text": (".png", b"no image", r"it is no image, or of a format that has to be converted first\); repair or remove it"),
        "cut off": (".png", good[:-30], r".*\); repair or remove it"),
        "cut off jpeg": (".jpg", saved(Image.new("L", (64, 64), 9), "JPEG")[:-30], r".*\); repair or remove it"),
        "floats": (".tif", tiff(np.zeros(64, "<f4").tobytes(), {258: 32, 262: 1, 339: 3}), r"floating-point .*\); save it with 8 or 16"),
        "32 bits": (".tif", tiff(np.zeros(64, "<u4").tobytes(), {258: 32, 262: 1}), r"more than 16 bits .*\); save it with 8 or 16"),
        "16 bits with a sign": (".tif", tiff(np.zeros(64, "<i2").tobytes(), {258: 16, 262: 1, 339: 2}), r"pixels with a sign"),
        "8 bits with a sign": (".tif", tiff(bytes(64), {258: 8, 262: 1, 339: 2}), r"pixels with a sign"),
        "12 bits, white is zero": (".tif", tiff(bytes(96), {258: 12, 262: 0}), r"has to be converted first"),
        "16 bits, white is zero, big endian": (".tif", tiff(bytes(128), {258: 16, 262: 0}, ">"), r"has to be converted first"),
    }  # fmt: skip


REFUSED = _refused()
"""name -> (suffix, content, what the sentence says): files of which nobody can tell the pixels."""


# ----------------------------------------------------------------------------------------------------------------- EXIF

FIRST = {1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
         5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom")}  # fmt: skip
"""EXIF's orientation -> on which side of the upright picture the first stored row and the first stored column lie."""


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The picture (H, W) as it is to be seen, pixel by pixel from EXIF's definition."""
    height, width = stored.shape
    row_side, column_side = FIRST[orientation]
    turned = row_side in ("left", "right")
    shown = np.empty((width, height) if turned else (height, width), stored.dtype)
    for r in range(height):
        for c in range(width):
            along_rows = r if row_side in ("top", "left") else height - 1 - r
            along_columns = c if column_side in ("top", "left") else width - 1 - c
            shown[(along_columns, along_rows) if turned else (along_rows, along_columns)] = stored[r, c]
    return shown


def exif(orientation: int) -> bytes:
    """An EXIF of one entry, as JPEG, PNG and WebP carry it."""
    return b"Exif\0\0" + b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
