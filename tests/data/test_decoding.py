"""Pixels and ids as the files hold them, and nothing for files that are broken."""

import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from dgseg.data.dataset import CorruptFile
from dgseg.data.decoding import PNG, read_colours, read_ids, read_image, verify_checksums
from dgseg.data.pack.codec import decode_map


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pixels")


@given(
    pixels=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([3, 4])).flatmap(
        lambda shape: arrays.arrays(np.uint16, shape)
    ),
    level=st.integers(0, 9),
    strategy=st.integers(0, 4),
)
def test_16_bit_colour_is_exact_under_every_filter(
    scratch: Path, pixels: np.ndarray, level: int, strategy: int
) -> None:
    path = scratch / "deep.png"
    flags = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_STRATEGY, strategy]
    assert cv2.imwrite(str(path), pixels, flags)
    assert np.array_equal(read_ids(path), pixels[..., 2])  # OpenCV's red


def test_16_bit_colour_of_a_real_size(scratch: Path) -> None:
    """OpenCV picks another filter per row on pictures of some size."""
    rng = np.random.default_rng(0)
    pixels = np.cumsum(rng.integers(0, 3, (190, 320, 3)), axis=1).astype(np.uint16) * 123
    path = scratch / "large.png"
    assert cv2.imwrite(str(path), pixels)
    assert np.array_equal(read_ids(path), pixels[..., 2])


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGB", "RGBA", "I;16"])
def test_ids_come_through_every_mode(scratch: Path, mode: str) -> None:
    ids = np.array([[0, 1, 1], [1, 0, 0]] if mode == "1" else [[0, 7, 18], [33, 254, 255]], np.uint8)
    picture = Image.fromarray(ids)
    if mode == "P":
        picture = Image.fromarray(ids, "P")
        picture.putpalette(bytes(reversed(range(256))) * 3)
    elif mode == "1":
        picture = Image.fromarray(ids * 255).convert("1")
    elif mode == "I;16":
        picture = Image.fromarray(ids.astype(np.uint16))
    else:
        picture = picture.convert(mode)
    path = scratch / f"ids-{mode.replace(';', '')}.png"
    picture.save(path)
    assert read_ids(path).tolist() == ids.tolist()


def test_colours_where_ids_are_expected(scratch: Path) -> None:
    path = scratch / "colours.png"
    Image.new("RGB", (4, 3), (128, 64, 128)).save(path)
    assert (read_colours(path) == 0x804080).all()
    with pytest.raises(CorruptFile, match=r"colours\.png: cannot be read: holds colours where class ids are expected"):
        read_ids(path)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16"])
def test_images_of_any_mode_become_rgb(scratch: Path, mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((3, 4), 0x6400, np.uint16))
    else:
        picture = Image.new("L", (4, 3), 100).convert(mode)
    path = scratch / ("image.jpg" if mode == "CMYK" else "image.png")
    picture.save(path)
    image = read_image(path)
    assert image.shape == (3, 4, 3)
    assert np.abs(image.astype(int) - 100).max() <= (3 if mode == "CMYK" else 0)


def test_exif_orientation_counts_where_asked(scratch: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = scratch / "turned.jpg"
    Image.new("RGB", (8, 16)).save(path, exif=exif)
    assert read_image(path).shape == (16, 8, 3)
    assert read_image(path, oriented=True).shape == (8, 16, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_truncated_and_empty_files_are_corrupt(scratch: Path, suffix: str) -> None:
    path = scratch / f"whole{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    for length in (0, 5, 30, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(CorruptFile, match=rf"whole\{suffix}: cannot be read"):
            read_image(path)
        with pytest.raises(CorruptFile):
            read_ids(path)


def test_truncated_16_bit_colour_is_corrupt(scratch: Path) -> None:
    path = scratch / "deep-cut.png"
    assert cv2.imwrite(str(path), np.zeros((40, 40, 3), np.uint16) + np.arange(40, dtype=np.uint16)[:, None])
    data = path.read_bytes()
    for length in (27, 60, len(data) - 20):
        path.write_bytes(data[:length])
        with pytest.raises(CorruptFile):
            read_ids(path)


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_png_is_noticed(scratch: Path, place: int, bit: int) -> None:
    path = scratch / "flipped.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    verify_checksums(path)
    data[8 + place % (len(data) - 8)] ^= 1 << bit  # behind the signature
    path.write_bytes(data)
    with pytest.raises(CorruptFile):
        verify_checksums(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_jpeg_is_no_label_map(scratch: Path, name: str) -> None:
    Image.fromarray(np.tile(np.array([0, 13], np.uint8), (16, 8))).save(scratch / name, "JPEG")
    for read in (read_ids, read_colours):
        with pytest.raises(CorruptFile, match="a JPEG, which changes ids; save label maps as PNG"):
            read(scratch / name)


def _deep_png(width: int, height: int, content: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "unpacked", "reason"),
    [
        ((64, 64), 300_000_000, "does not unpack to the 24640 bytes"),
        ((64, 64), 100, "does not unpack to the 24640 bytes"),
        ((60_000, 60_000), 100, "60000x60000 pixels"),
    ],
)
def test_a_label_map_that_unpacks_to_another_size_is_refused_before_it_is_unpacked(
    scratch: Path, size: tuple[int, int], unpacked: int, reason: str
) -> None:
    path = scratch / "bomb.png"
    path.write_bytes(_deep_png(*size, bytes(unpacked)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptFile, match=reason):
        read_ids(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_packed_map_that_unpacks_to_more_is_refused() -> None:
    with pytest.raises(ValueError, match="does not unpack to the 12 bytes"):
        decode_map(zlib.compress(bytes(1000)), (3, 4), np.dtype(np.uint8))
