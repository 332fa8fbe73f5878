"""Files to pixels: images as RGB, label maps as the ids that they hold.

Pillow decodes: torchvision.io was 20 % faster on PNGs of GTA5's size but is deprecated, and it turns palettes into
colours. Numpy only, so that a forked process may call it whatever torch's threads are doing."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from dgseg.data.dataset import CorruptFile

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # of a PNG, by its colour type
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_image(path: Path, *, oriented: bool = False) -> npt.NDArray[np.uint8]:
    """RGB [H, W, 3]. Alpha is dropped, grey becomes RGB, 16 bits lose the lower 8. `oriented`: as EXIF says."""
    with _complaints(path), Image.open(BytesIO(path.read_bytes())) as image:
        upright = ImageOps.exif_transpose(image) if oriented else image
        if upright.mode == "F":
            raise ValueError("holds floating-point values, which may mean any brightness; save it with 8 or 16 bits")
        if upright.mode.startswith("I"):
            grey = (np.asarray(upright).astype(np.uint32) >> 8).clip(max=255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        return np.array(upright.convert("RGB"))


def read_ids(path: Path, *, oriented: bool = False) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """The ids of a label map, [H, W]: palette indices, never their colours; of 16-bit colour the first channel."""
    with _complaints(path):
        data = path.read_bytes()
        _refuse_jpeg(data)
        if _is_deep_colour(data):
            return _first_channel(data)
        with Image.open(BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image) if oriented else image
            pixels = np.array(upright)
        if image.mode == "1":
            return pixels.astype(np.uint8)
        if pixels.ndim == 2:
            return pixels if pixels.dtype == np.uint8 else _narrowed(pixels)
        # Some tools write ids as grey RGB.
        colours = pixels[..., : 3 if pixels.shape[-1] >= 3 else 1]
        if not (colours == colours[..., :1]).all():
            raise ValueError(
                "holds colours where class ids are expected; name them in a classes file (docs/tutorials/own-data.md)"
            )
        return np.ascontiguousarray(colours[..., 0])


def read_colours(path: Path, *, oriented: bool = False) -> npt.NDArray[np.uint32]:
    """A label map in colours as 0xRRGGBB, [H, W]."""
    with _complaints(path), path.open("rb") as file:
        _refuse_jpeg(file.read(len(JPEG)))
    rgb = read_image(path, oriented=oriented).astype(np.uint32)
    return np.asarray(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], np.uint32)


def verify_checksums(path: Path) -> None:
    """Pillow does not look at the checksums of a PNG's pixels."""
    with _complaints(path):
        data = path.read_bytes()
        for kind, body, checksum in _chunks(data) if data.startswith(PNG) else ():
            if zlib.crc32(body, zlib.crc32(kind)) != checksum:
                raise ValueError(f"the checksum of its {kind.decode('ascii', 'replace')} chunk is wrong")


def unpack(stream: bytes, size: int) -> bytearray:
    """The `size` bytes that zlib packed there. A stream that holds more is refused before it fills the memory."""
    unpacking = zlib.decompressobj()
    content = bytearray(unpacking.decompress(stream, size + 1))
    if len(content) != size or not unpacking.eof:
        raise ValueError(f"it does not unpack to the {size} bytes that its header declares")
    return content


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    try:
        yield
    except CorruptFile:
        raise
    except UnidentifiedImageError as error:
        raise CorruptFile(path, "cannot be read: it is no image, or not all of one") from error
    except _BROKEN as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CorruptFile(path, f"cannot be read: {reason}") from error


def _refuse_jpeg(data: bytes) -> None:
    """Whatever its name says: near a border JPEG makes other ids of two, and many of those are valid."""
    if data.startswith(JPEG):
        raise ValueError("a JPEG, which changes ids; save label maps as PNG")


def _narrowed(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.uint16]:
    if pixels.dtype.kind not in "iu" or pixels.min(initial=0) < 0 or pixels.max(initial=0) > 0xFFFF:
        raise ValueError(f"holds {pixels.dtype} values that are no class ids")
    return pixels.astype(np.uint16)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    at = len(PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            break
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        yield kind, data[at + 8 : at + 8 + length], checksum
        if kind == b"IEND":
            return
        at += 12 + length
    raise ValueError("the file is truncated")


def _is_deep_colour(data: bytes) -> bool:
    """A PNG of 16 bits with more than one channel: Pillow would keep the upper byte, where ids are 0."""
    return data.startswith(PNG) and len(data) > 26 and data[24] == 16 and data[25] in (2, 4, 6)


def _first_channel(data: bytes) -> npt.NDArray[np.uint16]:
    """PNG's filters work byte by byte at the distance of one pixel, so each byte of the pixel is a grey picture of its
    own, under the same filters: rewrap the two that we want and let Pillow decode them."""
    width, height, _, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if interlaced:
        raise ValueError("an interlaced 16-bit PNG; save it again without interlacing")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{width}x{height} pixels: more than Pillow takes for an honest picture")
    stream = b"".join(body for kind, body, _ in _chunks(data) if kind == b"IDAT")
    step = 2 * _CHANNELS[colour]
    pixels = unpack(stream, height * (1 + step * width))
    rows = np.frombuffer(pixels, np.uint8).reshape(height, 1 + step * width)
    upper, lower = (_decode_grey(rows[:, :1], rows[:, 1 + byte :: step]) for byte in (0, 1))
    return np.asarray(upper.astype(np.uint16) << 8 | lower, np.uint16)


def _decode_grey(filters: npt.NDArray[np.uint8], plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = plane.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(np.hstack([filters, plane]).tobytes(), 0)
    png = PNG + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    with Image.open(BytesIO(png)) as image:
        return np.asarray(image)
