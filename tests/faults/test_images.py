"""Fault matrix, images: odd but valid ones are decoded right; broken ones give an ImageError that names the file."""

import io
import os
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import heic
from grcn.data.dataset import open_dataset
from grcn.data.image import AVIF, HEIC, image_size, read_image
from grcn.errors import ImageError

RNG = np.random.default_rng(1)
RGB = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
ALPHA = RGB[:, :, 1]


def grey_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(values)[:, :, None], 3, axis=2)


def cmyk_rgb(cmyk: np.ndarray) -> np.ndarray:
    light = 255 - cmyk.astype(np.float64)
    return light[:, :, :3] * light[:, :, 3:] / 255


def ycbcr_rgb(ycbcr: np.ndarray) -> np.ndarray:
    """JFIF 1.02, page 3."""
    y, cb, cr = (ycbcr[:, :, i].astype(np.float64) for i in range(3))
    cb, cr = cb - 128, cr - 128
    return np.clip(np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2), 0, 255)


FOUR = RNG.integers(0, 256, (12, 10, 4), dtype=np.uint8)
WIDE = RNG.integers(0, 65536, (12, 10), dtype=np.uint16)
BITS = GREY > 127
PALETTE = RNG.integers(0, 256, (256, 3), dtype=np.uint8)


def palette_image() -> PIL.Image.Image:
    image = PIL.Image.fromarray(GREY)
    image.putpalette(PALETTE.tobytes())
    return image


ODD = {
    "1": (PIL.Image.fromarray(BITS), "PNG", grey_rgb(BITS * 255)),
    "L": (PIL.Image.fromarray(GREY), "PNG", grey_rgb(GREY)),
    "LA": (PIL.Image.fromarray(np.stack([GREY, ALPHA], axis=2)), "PNG", grey_rgb(GREY)),
    "P": (palette_image(), "PNG", PALETTE[GREY]),
    "RGB": (PIL.Image.fromarray(RGB), "PNG", RGB),
    "RGBA": (PIL.Image.fromarray(np.concatenate([RGB, ALPHA[:, :, None]], axis=2)), "PNG", RGB),
    "CMYK": (PIL.Image.fromarray(FOUR, mode="CMYK"), "TIFF", cmyk_rgb(FOUR)),
    "YCbCr": (PIL.Image.fromarray(RGB, mode="YCbCr"), None, ycbcr_rgb(RGB)),
    "I;16": (PIL.Image.fromarray(WIDE), "PNG", grey_rgb(WIDE / 65535 * 255)),
    "I": (PIL.Image.fromarray(WIDE.astype(np.int32)), "TIFF", grey_rgb(WIDE / 65535 * 255)),
    "F": (PIL.Image.fromarray((WIDE / 65535).astype(np.float32)), "TIFF", grey_rgb(WIDE / 65535 * 255)),
}


@pytest.mark.parametrize("mode", ODD)
def test_odd_modes(mode: str, tmp_path: Path) -> None:
    image, kind, expected = ODD[mode]
    assert image.mode == mode
    source: Path | PIL.Image.Image = image
    if kind:
        source = tmp_path / "image"
        image.save(source, kind)
        with PIL.Image.open(source) as written:
            assert written.mode == mode
    found = read_image(source)
    assert found.shape == expected.shape
    assert np.abs(found - expected.astype(np.float64)).max() <= 2


def test_cmyk_and_ycbcr_jpeg_files(tmp_path: Path) -> None:
    """JPEG blurs single pixels, so these are of one colour."""
    for mode, colour in (("CMYK", (10, 200, 30, 60)), ("YCbCr", (120, 90, 200))):
        path = tmp_path / f"{mode}.jpg"
        PIL.Image.new(mode, (16, 16), colour).save(path, quality=100)
        convert = cmyk_rgb if mode == "CMYK" else ycbcr_rgb
        expected = convert(np.full((16, 16, len(colour)), colour, dtype=np.uint8))
        assert np.abs(read_image(path) - expected).max() <= 2


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_and_its_boxes(orientation: int, tmp_path: Path) -> None:
    """The object is a white block; a VOC file gives its box once in upright, once in stored pixels."""
    stored = np.zeros((60, 100, 3), np.uint8)
    stored[10:30, 40:90] = 255
    upright = TURNS[orientation](stored)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), upright)
    rows, columns = np.nonzero(upright[:, :, 0])
    expected = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]

    frames = [(upright.shape, expected[0])]
    if orientation > 4:  # only a size that differs tells that boxes were drawn on the image as stored
        frames.append((stored.shape, [40, 10, 90, 30]))
    for (height, width, _), (x1, y1, x2, y2) in frames:
        (tmp_path / "a.xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size><object><name>block</name>"
            f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
            "</object></annotation>"
        )
        data = open_dataset(tmp_path)
        assert data[0].target.boxes.tolist() == expected
        assert (data[0].height, data[0].width) == upright.shape[:2]
        turned = (height, width) != upright.shape[:2]
        assert [defect.kind for defect in data.defects] == ["exif-turned"] * turned


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 1) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


KINDS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", *["AVIF"] * AVIF, *["HEIC"] * HEIC]


def encoded(kind: str) -> bytes:
    if kind == "HEIC":
        return heic.HEIC
    file = io.BytesIO()
    PIL.Image.fromarray(RGB.repeat(20, axis=0).repeat(20, axis=1)).save(file, kind)
    return file.getvalue()


def broken_files() -> dict[str, bytes]:
    """Files by name; those whose name begins with `bomb` are refused from their header."""
    files = {"empty.jpg": b"", "text.jpg": b"this is no image", "page.png": b"<html>not found</html>"}
    for kind in KINDS:
        data = encoded(kind)
        files[f"truncated.{kind}"] = data[: len(data) // 2]
        files[f"header_only.{kind}"] = data[:24]
        files[f"nulled.{kind}"] = bytes(len(data))
    data = encoded("PNG")
    at = data.index(b"IDAT") + 40
    files["flipped.png"] = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
    data = encoded("JPEG")
    at = data.index(b"\xff\xc0")  # the frame header
    files["flipped.jpg"] = data[: at + 9] + bytes([data[at + 9] ^ 0x40]) + data[at + 10 :]
    rows = zlib.compress(bytes(20_000 // 8 + 1) * 20_000, 9)
    files["bomb.png"] = png(20_000, 20_000, chunk(b"IDAT", rows))
    files["bomb_claimed.png"] = png(100_000, 100_000, chunk(b"IDAT", b"\0" * 20))
    files["bomb_between.png"] = png(12_000, 12_000, chunk(b"IDAT", b"\0" * 20))  # Pillow itself only warns here
    files["bomb_side.png"] = png(2**31 - 1, 1, chunk(b"IDAT", b"\0" * 20))
    text = zlib.compress(bytes(2**25), 9)
    files["text_bomb.png"] = png(8, 8, chunk(b"zTXt", b"a\0\0" + text), chunk(b"IDAT", b""))
    files["bomb.gif"] = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\0;"
    files["bomb.bmp"] = b"BM" + struct.pack("<IIIIiiHHIIiiII", 200, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    files["bomb.ppm"] = b"P6 100000 100000 255\n" + bytes(100)
    at = (data := encoded("JPEG")).index(b"\xff\xc0") + 5
    files["bomb.jpg"] = data[:at] + struct.pack(">HH", 65_000, 65_000) + data[at + 4 :]
    tags = [(256, 90_000), (257, 90_000), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 90_000), (279, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    files["bomb.tif"] = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(104)
    for kind in KINDS[6:]:
        at = (data := encoded(kind)).index(b"ispe") + 8  # the size
        files[f"bomb.{kind}"] = data[:at] + struct.pack(">II", 12_000, 12_000) + data[at + 8 :]
    return files


def test_broken_images_name_their_file_within_time_and_memory(tmp_path: Path) -> None:
    """In another process, held to 1 GiB of address space and 5 s of processor time for all the files together."""
    files = broken_files()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    script = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
        from grcn.data.image import image_size, read_image
        from grcn.errors import ImageError
        for path in sorted(Path(sys.argv[1]).iterdir()):
            try:
                print(path.name, "decoded", read_image(path).shape, sep="|")
            except ImageError as error:
                assert "\\n" not in str(error)
                print(path.name, "refused", str(error).removeprefix(str(path)), sep="|")
            if path.name.startswith("bomb"):
                try:
                    print(path.name, "header", image_size(path), sep="|")
                except ImageError:
                    pass
        """)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    outcomes = [line.split("|") for line in run.stdout.splitlines()]
    assert [(name, what) for name, what, _ in outcomes] == [(name, "refused") for name in sorted(files)]
    for name, _, message in outcomes:
        assert message.startswith(": "), f"{name}: the message does not begin with the file"
        if name.startswith("bomb"):
            assert "pixels" in message or "exceeds limit" in message, message


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_decode_or_raise_image_error(kind: str) -> None:
    data = encoded(kind)
    whole = read_image(data)
    refused = []
    for _ in range(150):
        flipped = bytearray(data)
        for at in RNG.integers(0, len(data), 3):
            flipped[at] ^= 1 << int(RNG.integers(8))
        try:
            found = read_image(bytes(flipped), name="flipped")
        except ImageError as error:
            refused.append(str(error))
        else:
            # PNG has checksums, so a picture that comes through is the picture.
            assert found.ndim == 3
            assert kind != "PNG" or np.array_equal(found, whole)
    assert all(message.startswith("flipped: ") for message in refused)
    assert len(refused) > 100 or kind != "PNG"


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, reason in (
        (tmp_path / "absent.jpg", "No such file"),
        (tmp_path, "not a file"),
        (tmp_path / "pipe.jpg", "not a file"),
        (tmp_path / ("n" * 300), "too long"),
        ("nul\0l.jpg", "null"),
    ):
        for reader in (read_image, image_size):
            with pytest.raises(ImageError, match=reason):
                reader(path)


def test_a_file_beyond_the_size_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with open(path, "wb") as file:
        file.write(encoded("JPEG"))
        file.truncate(2**31)
    with pytest.raises(ImageError, match=r"huge\.jpg: 2147483648 bytes"):
        read_image(path)


@pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.4\n", b"<svg></svg>"])
def test_formats_that_run_programs_are_not_read(data: bytes) -> None:
    with pytest.raises(ImageError, match="not an image of a known kind"):
        read_image(data)


def test_sources_of_the_wrong_type() -> None:
    with pytest.raises(ImageError, match="image"):
        read_image(None)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="no pixels"):
        read_image(PIL.Image.new("RGB", (0, 0)))
