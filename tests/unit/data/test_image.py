"""The decoder against formulas written out here, not against its own conversions."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageOps

import heic
from grcn.data import image as decoder
from grcn.data.image import ImageHeader, image_size, read_header, read_image, upright_boxes
from grcn.errors import ImageError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)
ORIENTATION = 0x0112
NEEDS_AVIF = pytest.mark.skipif(not decoder.AVIF, reason="this Pillow was built without AVIF")


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and bool((np.abs(found.astype(int) - expected.astype(int)) <= 2).all())


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_orientation(image: PIL.Image.Image, orientation: int, kind: str, **options: object) -> bytes:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, kind, exif=exif, **options)


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    data = encoded(PIL.Image.fromarray(COLOUR))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with PIL.Image.open(path) as image, open(path, "rb") as file:
        for source in (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file, image):
            found = read_image(source)
            assert found.dtype == np.uint8
            assert np.array_equal(found, COLOUR)
        assert np.asarray(image).shape == COLOUR.shape, "the caller's image stays open"


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(PIL.Image.fromarray(COLOUR)))
    assert np.array_equal(read_image(path), COLOUR)
    assert image_size(path) == (13, 17)


def test_alpha_is_dropped_and_the_colour_below_kept() -> None:
    alpha = RNG.integers(0, 256, (13, 17, 1), dtype=np.uint8)
    rgba = np.concatenate([COLOUR, alpha], axis=2)
    assert np.array_equal(read_image(encoded(PIL.Image.fromarray(rgba))), COLOUR)
    assert np.array_equal(read_image(PIL.Image.fromarray(rgba)), COLOUR)


def test_a_key_colour_is_kept_too() -> None:
    data = encoded(PIL.Image.fromarray(COLOUR), transparency=tuple(COLOUR[0, 0].tolist()))
    assert np.array_equal(read_image(data), COLOUR)


def test_premultiplied_colour_is_divided() -> None:
    straight = PIL.Image.new("RGBA", (2, 2), (200, 100, 50, 128))
    assert near(read_image(straight.convert("RGBa")), np.full((2, 2, 3), (200, 100, 50)))


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255, 7])])
def test_palettes_with_and_without_transparency(transparency: int | bytes) -> None:
    indices = RNG.integers(0, 4, (5, 6), dtype=np.uint8)
    palette = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert image.mode == "P"
    assert np.array_equal(read_image(encoded(image)), palette[indices])
    assert np.array_equal(read_image(encoded(image, transparency=transparency)), palette[indices])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_by_its_whole_range(kind: str) -> None:
    values = RNG.integers(0, 65536, (9, 11), dtype=np.uint16)
    values[0, :3] = 0, 65535, 256
    data = encoded(PIL.Image.fromarray(values), kind)
    assert near(read_image(data), np.repeat((values / 65535 * 255)[:, :, None], 3, axis=2))
    dark = encoded(PIL.Image.fromarray(values // 300), kind)
    assert read_image(dark).max() <= 1, "scaled by the format's range, not by the image's own"


def test_16_bit_pgm_is_scaled_even_when_dark() -> None:
    values = np.array([[0, 200], [100, 255]], dtype=">u2")
    assert read_image(b"P5\n2 2\n65535\n" + values.tobytes()).max() == 1


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.float32, [0.0, 0.25, 0.5, 1.0], [0, 64, 128, 255]),
        (np.float32, [0.0, 64.0, 128.0, 255.0], [0, 64, 128, 255]),
        (np.float32, [0.0, 257.0, 25700.0, 65535.0], [0, 1, 100, 255]),
        (np.float32, [-10.0, 0.0, 10.0, 30.0], [0, 64, 128, 255]),
        (np.float32, [np.nan, np.inf, -np.inf, 1.0], [0, 0, 0, 255]),
        (np.float32, [np.nan, np.nan, np.nan, np.nan], [0, 0, 0, 0]),
        (np.float32, [-7.0, -7.0, -7.0, -7.0], [0, 0, 0, 0]),
        (np.int32, [0, 1, 128, 255], [0, 1, 128, 255]),
        (np.int32, [0, 257, 25700, 65535], [0, 1, 100, 255]),
        (np.int32, [-100, 0, 0, 100], [0, 128, 128, 255]),
        (np.int32, [0, 0, 100_000, 200_000], [0, 0, 128, 255]),
    ],
)
def test_wide_modes_take_the_first_range_that_holds_them(dtype: type, values: list[float], expected: list[int]) -> None:
    image = PIL.Image.fromarray(np.array(values, dtype=dtype).reshape(2, 2))
    assert image.mode in ("F", "I")
    found = read_image(encoded(image, "TIFF"))
    assert near(found, np.repeat(np.array(expected).reshape(2, 2, 1), 3, axis=2))


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.normal(size=(40, 7)).astype(np.float32)
    for image in (PIL.Image.fromarray(values), PIL.Image.fromarray(COLOUR).quantize(8)):
        whole = read_image(image)
        monkeypatch.setattr("grcn.data.image._STRIP", 21)
        assert np.array_equal(read_image(image), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", {}),
        pytest.param("AVIF", {}, marks=NEEDS_AVIF),
    ],
)
def test_upright_whatever_the_file_kind(
    tmp_path: Path, kind: str, options: dict[str, object], orientation: int
) -> None:
    path = tmp_path / "image"
    smooth = PIL.Image.fromarray(COLOUR).resize((48, 32), PIL.Image.Resampling.BICUBIC)
    path.write_bytes(with_orientation(smooth, orientation, kind, **options))
    with PIL.Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = read_image(path)
    assert near(found, expected)
    header = read_header(path)
    assert (header.height, header.width) == found.shape[:2]
    assert header.orientation == orientation
    assert header.stored == (32, 48)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
EXIF = PIL.Image.Exif()
EXIF[ORIENTATION] = 6
PROFILE = b"\nexif\n%8d\n%s\n" % (len(EXIF.tobytes()), EXIF.tobytes().hex().encode())
CHUNKS = {
    "EXIF": (b"eXIf", EXIF.tobytes().removeprefix(b"Exif\0\0")),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "XMP, packed": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    "EXIF as text": (b"tEXt", b"Raw profile type exif\0" + PROFILE),
    "EXIF as text, packed": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE)),
}


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("case", CHUNKS)
def test_orientation_wherever_a_png_has_it(tmp_path: Path, case: str, before: bytes) -> None:
    """ExifTool, ImageMagick and others write it after the pixels."""
    kind, content = CHUNKS[case]
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    data = encoded(PIL.Image.fromarray(COLOUR), "PNG")
    at = data.index(before) - 4
    path = tmp_path / "turned.png"
    path.write_bytes(data[:at] + chunk + data[at:])
    assert read_header(path) == ImageHeader(17, 13, 6)
    for source in (path, path.read_bytes(), PIL.Image.open(path)):
        assert np.array_equal(read_image(source), np.rot90(COLOUR, -1))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"xmp": XMP}),
        ("WEBP", {"xmp": XMP, "lossless": True}),
        ("TIFF", {"tiffinfo": {700: XMP}}),
        ("TIFF", {"tiffinfo": {700: XMP, ORIENTATION: 1}}),
        ("TIFF", {"tiffinfo": {700: XMP, ORIENTATION: 8}}),
    ],
)
def test_orientation_by_xmp_is_that_of_the_pixels(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(PIL.Image.fromarray(COLOUR), kind, **options))
    header = read_header(path)
    assert (header.height, header.width) == read_image(path).shape[:2]
    assert header.stored == (13, 17)


def test_heic_is_read_upright_by_its_extra_and_pillow_left_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    for name in ("a.HEIC", "phones_call_it.jpg"):
        path = tmp_path / name
        path.write_bytes(heic.HEIC)
        found = read_image(path)
        assert found.shape[:2] == image_size(path) == heic.SIZE
        for at, colour in heic.COLOURS.items():
            assert np.abs(found[at].astype(int) - colour).max() <= 2
    assert "HEIF" not in PIL.Image.OPEN


@pytest.mark.parametrize(
    ("kind", "data", "remedy"),
    [
        ("HEIC", heic.HEIC, "convert it to JPEG or PNG, or pip install 'grcn[heic]'"),
        ("AVIF", b"\0\0\0\x20ftypavif" + bytes(40), "convert it to JPEG or PNG, or install Pillow 11.3 or newer"),
    ],
)
def test_what_is_not_read_here_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, kind: str, data: bytes, remedy: str
) -> None:
    monkeypatch.setattr(decoder, kind, False)
    monkeypatch.setattr(decoder, "FORMATS", [name for name in decoder.FORMATS if name != kind])
    with pytest.raises(ImageError) as caught:
        read_image(data, name="photo.jpg")
    assert str(caught.value) == f"photo.jpg: a photo of a kind that is not read: {remedy}"


def test_damaged_exif_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(PIL.Image.fromarray(COLOUR), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage"))
    assert image_size(path) == (13, 17)
    assert read_image(path).shape == (13, 17, 3)
    path.write_bytes(with_orientation(PIL.Image.fromarray(COLOUR), 9, "JPEG"))
    assert image_size(path) == (13, 17)


@given(
    orientation=st.integers(1, 8),
    box=st.tuples(st.integers(0, 15), st.integers(0, 11), st.integers(1, 16), st.integers(1, 12)),
)
@settings(max_examples=60, deadline=None)
def test_boxes_turn_with_their_image(orientation: int, box: tuple[int, int, int, int]) -> None:
    x1, y1, width, height = box
    x2, y2 = min(16, x1 + width), min(12, y1 + height)
    stored = np.zeros((12, 16, 3), np.uint8)
    stored[y1:y2, x1:x2] = 255
    upright = read_image(with_orientation(PIL.Image.fromarray(stored), orientation, "PNG"))
    header = ImageHeader(*upright.shape[:2], orientation)
    turned = upright_boxes(np.array([[x1, y1, x2, y2]], dtype=np.float64), header)
    rows, columns = np.nonzero(upright[:, :, 0])
    assert turned.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]


def test_the_first_frame_of_animations() -> None:
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert near(read_image(data), np.full((4, 4, 3), (255, 0, 0)))


def test_real_photos_as_pillow_reads_them(shared_data: Path) -> None:
    for path in sorted((shared_data / "bccd" / "JPEGImages").iterdir())[:3]:
        with PIL.Image.open(path) as image:
            assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))
            assert image_size(path) == (image.height, image.width)


def test_errors_use_the_given_name() -> None:
    with pytest.raises(ImageError, match=r"^frame 7: empty file"):
        read_image(b"", name="frame 7")
    with pytest.raises(ImageError, match=r"^image: .*not an image"):
        read_image(b"no image at all")


def test_the_pixel_limit_is_the_callers() -> None:
    data = encoded(PIL.Image.fromarray(COLOUR))
    assert read_image(data, max_pixels=13 * 17).shape == COLOUR.shape
    with pytest.raises(ImageError, match="17 x 13 is more than 220 pixels"):
        read_image(data, max_pixels=13 * 17 - 1)
    with pytest.raises(ImageError, match="more than 220 pixels"):
        read_image(PIL.Image.fromarray(COLOUR), max_pixels=13 * 17 - 1)
