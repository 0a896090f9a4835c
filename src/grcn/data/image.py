"""The only image decoder of the package. It decodes any common file to upright 8-bit RGB, or raises an `ImageError`.

libjpeg-turbo (simplejpeg) decodes JPEGs in grey or colour. It gives the same pixels as Pillow in half the time. Pillow
reads the headers, decodes everything else, and says what is wrong with a JPEG. Neither needs torch.

Modes become RGB in this way:

- Pillow converts grey, palette, CMYK and YCbCr (YCbCr by JFIF, CMYK without colour management).
- Alpha is dropped in every mode, and the colour below it is kept, as in OpenCV, torchvision and `PIL.Image.convert`.
  So a detector sees the same pixels here as there.
- 16-bit grey is scaled from 0..65535, never clipped. Pillow itself reduces 16-bit colour, also by scaling.
- 32-bit integers and floats have no fixed range. The first of these ranges that contains all pixels is used: 0..1
  (floats only), 0..255, 0..65535, otherwise the image's own minimum to maximum. NaN and infinity become black.
- Of animations and multi-page files, only the first frame is read.

AVIF is read if Pillow was built with it (its own wheels are, since 11.3). HEIC is read if pillow-heif is installed (the
extra `heic`). Its decoder is called directly, so that Pillow behaves as before in the rest of the process.

The kind of a file is recognized by its content, not by its suffix. A JPEG has no checksum, so a flipped bit in its
pixels goes unnoticed. A PNG has checksums, and is refused if one is wrong.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import BinaryIO

import numpy as np
import PIL.features
import PIL.Image
import PIL.TiffImagePlugin
import simplejpeg
from numpy.typing import NDArray

from grcn.errors import ImageError

AVIF = "avif" in PIL.features.modules and PIL.features.check("avif")  # old releases of Pillow warn of unknown features
HEIC = find_spec("pillow_heif") is not None
"""Whether AVIF and HEIC can be read here."""
# Raster formats whose decoders are compiled into Pillow. PostScript, PDF and the like would start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", *(["AVIF"] if AVIF else []))
HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
) | frozenset((*([".avif"] if AVIF else []), *(HEIC_SUFFIXES if HEIC else [])))
# Photos of kinds that are not read. They are reported by name.
UNREAD_SUFFIXES = (
    frozenset((".avif", ".jxl", ".jp2", ".j2k", ".tga", ".psd", ".exr", ".dng", ".cr2", ".cr3", ".nef", ".arw"))
    | frozenset((".orf", ".rw2", ".raf"))
    | HEIC_SUFFIXES
) - SUFFIXES

MAX_PIXELS = 2**26  # 8192 x 8192; decoding that many stays under 1 GiB
READABLE_PIXELS = 2 * 89_478_485  # twice Pillow's own limit, above which Pillow always refuses
MAX_BYTES = 2**29  # of a file; holds the largest uncompressed image of MAX_PIXELS

_ORIENTATION = 0x0112  # the EXIF tag
_WIDTH, _HEIGHT = 256, 257  # the TIFF tags
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # EXIF in its own chunk, EXIF as text, and XMP
_MAX_METADATA = 2**22  # bytes of metadata; the rest is ignored
_SWAPPING = (5, 6, 7, 8)  # orientations that exchange height and width
_STRIP = 2**22  # pixels converted at a time, which bounds the memory that conversion adds

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | PIL.Image.Image
_BYTES = (bytes, bytearray, memoryview)


@dataclass(frozen=True)
class ImageHeader:
    """An image's size, read without decoding it.

    Args:
        height, width: size after the orientation is applied, so that the image is upright.
        orientation: orientation from EXIF or XMP, 1..8; 1 if there is none.
    """

    height: int
    width: int
    orientation: int = 1

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width as stored in the file, before the orientation is applied."""
        return (self.width, self.height) if self.orientation in _SWAPPING else (self.height, self.width)


def read_image(source: Source, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decodes an image to upright RGB.

    Args:
        source: a path, the file's bytes, a binary file object (read to its end), or a PIL image.
        name: its name in errors. Default: the path.
        max_pixels: images with more pixels are refused after reading the header. At most `READABLE_PIXELS`, since
            Pillow's own limit stays in force.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        ImageError: if it cannot be decoded, naming the image. No other error is raised, whatever the bytes are.
    """
    label = name or _label(source)
    with _naming(label), _opened(source, label) as image:
        _check_size(image, label, max_pixels)
        if image.format == "PNG" and not isinstance(source, PIL.Image.Image):
            _check_png(image, label)
        if isinstance(source, PIL.Image.Image):
            image.load()  # with its late metadata, because its file may no longer be there to search
        orientation = _orientation(image)  # before the pixels, as for the header, so that both agree
        pixels = None if isinstance(source, PIL.Image.Image) else _jpeg(image)
        if pixels is None:
            image.load()
            pixels = _to_rgb(image)
        return _upright(pixels, 1 if image.format == "TIFF" else orientation)  # Pillow itself rotates TIFF


def read_thumbnail(path: str | os.PathLike[str], width: int, height: int) -> NDArray[np.uint8]:
    """Reduces a photo to a few cells: [height, width] uint8 grey, each the mean of its part of the photo as stored.

    A JPEG is decoded at a small scale, which takes a tenth of the time.

    Raises:
        ImageError: as in `read_image`.
    """
    label = _label(path)
    with _naming(label), _opened(path, label) as image:
        _check_size(image, label, MAX_PIXELS)
        image.draft("L", (4 * width, 4 * height))
        small = image.convert("L").resize((width, height), PIL.Image.Resampling.BOX)
        return np.asarray(small)


def read_header(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """The size and orientation of an image file, without decoding its pixels.

    Raises:
        ImageError: naming the file.
    """
    label = str(path)
    with _naming(label), _opened(path, label) as image:
        _check_size(image, label, max_pixels)
        width, height = image.size
        if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
            width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]  # image.size is upright only for some tags
        orientation = _orientation(image)
        if orientation in _SWAPPING:
            height, width = width, height
        return ImageHeader(height, width, orientation)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """The upright (height, width) of an image file, from its header.

    Raises:
        ImageError: naming the file.
    """
    header = read_header(path)
    return header.height, header.width


def brand(start: bytes) -> bytes:
    """The brand of a file in ISO's media format, such as AVIF and HEIC, from its first 12 bytes; empty for others."""
    return start[8:12] if start[4:8] == b"ftyp" else b""


def unread(suffix: str) -> str:
    """The message for a photo with one of `UNREAD_SUFFIXES`."""
    remedy = {".avif": ", or install Pillow 11.3 or newer"} | dict.fromkeys(
        HEIC_SUFFIXES, ", or pip install 'grcn[heic]'"
    )
    return f"a photo of a kind that is not read: convert it to JPEG or PNG{remedy.get(suffix.lower(), '')}"


def _label(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    if isinstance(source, PIL.Image.Image):
        return str(getattr(source, "filename", "")) or "image"
    return "image" if isinstance(source, _BYTES) else str(getattr(source, "name", "image"))


@contextmanager
def _naming(label: str) -> Iterator[None]:
    """Converts any error of Pillow on damaged files to an ImageError that names the image."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{label}: not enough memory to decode it; make it smaller") from None
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"{label}: refused: {error}") from None
    except PIL.UnidentifiedImageError:
        raise ImageError(f"{label}: damaged, or not an image of a known kind ({', '.join(FORMATS)})") from None
    # Pillow's decoders raise nearly every built-in exception on damaged files (struct.error, KeyError, zlib.error...).
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{label}: cannot be decoded: {what}") from None


@contextmanager
def _opened(source: Source, label: str) -> Iterator[PIL.Image.Image]:
    if isinstance(source, PIL.Image.Image):
        yield source  # it belongs to the caller, so it is not closed
        return
    with _stream(source, label) as file, warnings.catch_warnings():
        # Ignore Pillow's warnings of odd metadata, which is not needed, and of large sizes, which are checked here.
        warnings.filterwarnings("ignore", module=r"PIL\b")
        with _open(file, label) as image:
            yield image


def _open(file: BinaryIO, label: str) -> PIL.Image.Image:
    try:
        return PIL.Image.open(file, formats=FORMATS)
    except PIL.UnidentifiedImageError:
        file.seek(0)
        kind = brand(file.read(12))
        if kind in _HEIC_BRANDS and HEIC:
            from pillow_heif import HeifImageFile

            return HeifImageFile(file)  # type: ignore[no-any-return]
        if kind in _HEIC_BRANDS or (kind in _AVIF_BRANDS and not AVIF):
            raise ImageError(f"{label}: {unread('.heic' if kind in _HEIC_BRANDS else '.avif')}") from None
        raise


def _stream(source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO, label: str) -> BinaryIO:
    if isinstance(source, (str, os.PathLike)):
        try:
            status = os.stat(source)
        except (OSError, ValueError) as error:
            raise ImageError(f"{label}: cannot be opened: {getattr(error, 'strerror', None) or error}") from None
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
            raise ImageError(f"{label}: not a file")
        _check_bytes(status.st_size, label)
        return open(source, "rb")
    data = bytes(source) if isinstance(source, _BYTES) else source.read(MAX_BYTES + 1)
    _check_bytes(len(data), label)
    return io.BytesIO(data)


def _check_bytes(size: int, label: str) -> None:
    if size == 0:
        raise ImageError(f"{label}: empty file")
    if size > MAX_BYTES:
        raise ImageError(f"{label}: {size} bytes; more than {MAX_BYTES} are refused")


def _check_size(image: PIL.Image.Image, label: str, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{label}: no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ImageError(f"{label}: {width} x {height} is more than {max_pixels} pixels: refused; make it smaller")


def _orientation(image: PIL.Image.Image) -> int:
    """The orientation from EXIF or XMP, 1..8; 1 if the metadata is missing or damaged."""
    try:
        if image.format == "PNG" and getattr(image, "fp", None):
            image = _metadata_of_png(image)
        # PngImageFile's own getexif would decode the pixels first.
        orientation = PIL.Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _png_chunks(image: PIL.Image.Image) -> Iterator[tuple[bytes, int, BinaryIO]]:
    """Kind and length of each chunk of an opened PNG, and the file at the chunk's data."""
    file: BinaryIO = image.fp  # type: ignore[attr-defined]
    before = file.tell()
    at = 8
    while file.seek(at) == at and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, length, file
        at += length + 12
    file.seek(before)


def _metadata_of_png(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image with all metadata of an opened PNG, also that after the pixels, where ExifTool and others write it.

    It is the same PNG without its pixels, so that Pillow reads late metadata in the same way as early metadata.
    """
    kept = [b"\x89PNG\r\n\x1a\n"]
    late, pixels, room = False, False, _MAX_METADATA
    for kind, length, file in _png_chunks(image):
        pixels |= kind == b"IDAT"
        if kind == b"IHDR" or (kind in _PNG_METADATA and length <= room):
            late |= pixels
            room -= length
            kept.append(struct.pack(">I4s", length, kind) + file.read(length + 4))
    if not late:
        return image
    return PIL.Image.open(io.BytesIO(b"".join([*kept, struct.pack(">I4s", 0, b"IDAT")])), formats=("PNG",))


def _check_png(image: PIL.Image.Image, label: str) -> None:
    """Raises ImageError if a checksum of the pixels is wrong, which Pillow does not check."""
    for kind, length, file in _png_chunks(image):
        checksum = zlib.crc32(kind)
        for start in range(0, length if kind == b"IDAT" else 0, 2**20):
            checksum = zlib.crc32(file.read(min(2**20, length - start)), checksum)
        if kind == b"IDAT" and file.read(4) != checksum.to_bytes(4, "big"):
            raise ImageError(f"{label}: damaged: a checksum of its pixels is wrong, or its end is missing")


def _jpeg(image: PIL.Image.Image) -> NDArray[np.uint8] | None:
    """[H, W, 3] RGB of an opened JPEG, as stored; None if it is not a JPEG or better left to Pillow."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return None
    file: BinaryIO = image.fp  # type: ignore[attr-defined]
    file.seek(0)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(file.read(), "RGB", strict=True)
    except ValueError:  # damaged or unusual
        return None
    finally:
        file.seek(0)
    return pixels if pixels.shape == (image.height, image.width, 3) else None


def _to_rgb(image: PIL.Image.Image) -> NDArray[np.uint8]:
    """[H, W, 3] RGB as stored, converted a strip of rows at a time."""
    width, height = image.size
    lowest, highest = _range(image)
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        out[top : top + rows] = _convert(strip, lowest, highest)
    return out


def _is_wide(image: PIL.Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _convert(image: PIL.Image.Image, lowest: float, highest: float) -> NDArray[np.uint8]:
    if _is_wide(image):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=lowest, posinf=lowest, neginf=lowest)
        grey = np.rint((values - lowest) * (255.0 / (highest - lowest))).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("La", "RGBa"):  # premultiplied: the colour is only there after division
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if "transparency" in image.info:  # transparency by palette entry or key colour is alpha too
        image = image.copy()
        del image.info["transparency"]
    return np.asarray(image.convert("RGB"))


def _range(image: PIL.Image.Image) -> tuple[float, float]:
    """The values that become 0 and 255, for modes wider than 8 bits; the module's docstring has the rules."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return 0.0, 65535.0
    if not _is_wide(image):
        return 0.0, 255.0
    lowest, highest = np.inf, -np.inf
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        values = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        values = values[np.isfinite(values)]
        if values.size:
            lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    for bound in (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0):
        if lowest >= 0 and highest <= bound:
            return 0.0, bound
    return (lowest, highest) if highest > lowest else (lowest, lowest + 1.0)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Applies an EXIF orientation: [H, W, 3] as stored to [H', W', 3] upright."""
    if orientation in _SWAPPING:
        pixels = pixels.transpose(1, 0, 2)
    # What remains are flips of the (transposed) image: left-right for 2, 3, 6, 7 and up-down for 3, 4, 7, 8.
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def upright_boxes(boxes: NDArray[np.float64], header: ImageHeader) -> NDArray[np.float64]:
    """Rotates boxes in the same way as `read_image` rotates the image.

    Args:
        boxes: [N, 4] xyxy in pixels of the image as stored.
        header: the header of the image.

    Returns:
        [N, 4] xyxy in pixels of the upright image.
    """
    x1, y1, x2, y2 = boxes.T
    if header.orientation in _SWAPPING:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if header.orientation in (2, 3, 6, 7):
        x1, x2 = header.width - x2, header.width - x1
    if header.orientation in (3, 4, 7, 8):
        y1, y2 = header.height - y2, header.height - y1
    return np.stack([x1, y1, x2, y2], axis=1)
