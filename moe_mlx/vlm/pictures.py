"""Pictures as they come from strangers: bytes are bounded before they are read, pixels before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.store import digest
from moe_mlx.vlm.installed import require

#: The largest file that is read, encoded; a photo of 48 megapixels has some 20 MB.
MOST_NBYTES = 32_000_000
#: The most pixels that are decoded: 150 MB of colours.
MOST_PIXELS = 50_000_000
#: What Pillow is asked to recognise; its other formats include programs (PostScript) and containers of anything.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
#: Pictures of one conversation, and the pixels of all of them that the server decodes: 600 MB of colours.
MOST_PICTURES, MOST_PIXELS_TOGETHER = 32, 200_000_000
_DATA = "data:image/"
#: The most pixels a side of a picture that is to be looked at in low detail: OpenAI's.
LOW_SIDE = 512


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture that was decoded.

    Attributes:
        name: As shown: a file's name, or "picture".
        digest: Of its encoded bytes: the same picture reads as the same tokens.
        image: Pillow's image, in RGB, turned as its camera says.
    """

    name: str
    digest: str
    image: Any

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        width, height = self.image.size
        return int(width), int(height)

    def in_detail(self, detail: str) -> Picture:
        """Returns the picture as it is, which a processor takes at its own resolution, or made smaller for "low"."""
        if detail != "low" or max(self.size) <= LOW_SIDE:
            return self
        smaller = self.image.copy()
        smaller.thumbnail((LOW_SIDE, LOW_SIDE))
        return Picture(self.name, f"{self.digest}-low", smaller)


#: The kind of a content part that holds a `Picture`, under the same name.
PICTURE = "picture"


def with_pictures(text: str, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Returns a message's content: pictures, then the text about them."""
    return [*({"type": PICTURE, PICTURE: picture} for picture in pictures), {"type": "text", "text": text}]


def text_of(content: Any) -> str:
    """Returns the text of a message's content, which may be a list of parts."""
    if not isinstance(content, list):
        return str(content or "")
    return "".join(str(part.get("text", "")) for part in content if part.get("type") == "text")


def read_picture(path: str | Path) -> Picture:
    """Reads a picture's file.

    Raises:
        UsageError: there is none, it is too large, or no picture.
        UnsupportedModelError: mlx-vlm is not installed.
    """
    place = Path(path).expanduser()
    try:
        if not place.is_file():
            raise UsageError(f"{place}: no such file, or none that can be read as a picture")
        if (nbytes := place.stat().st_size) > MOST_NBYTES:
            raise UsageError(_too_large(place.name, f"{nbytes / 1e6:.0f} MB", f"{MOST_NBYTES / 1e6:.0f} MB"))
        data = place.read_bytes()
    except OSError as error:
        raise UsageError(f"{place}: cannot be read ({error.strerror})") from error
    return decode_picture(data, place.name)


def check_count(count: int) -> None:
    """Raises UsageError where a conversation has too many pictures."""
    if count > MOST_PICTURES:
        raise UsageError(f"{count} pictures: {MOST_PICTURES} are taken at most in a conversation")


def pictures_of_urls(urls: Sequence[str]) -> list[Picture]:
    """Decodes the data URLs of one conversation, bounded together: a few kilobytes may become 150 MB each.

    Raises:
        UsageError: too many, too large together, or what `picture_of_url` refuses.
    """
    check_count(len(urls))
    found: list[Picture] = []
    left = MOST_PIXELS_TOGETHER
    for url in urls:
        found.append(picture_of_url(url, left))
        left -= found[-1].size[0] * found[-1].size[1]
    return found


def picture_of_url(url: str, left: int = MOST_PIXELS) -> Picture:
    """Decodes a data URL. No address is ever fetched.

    Args:
        url: The picture itself, in base64.
        left: Pixels that a conversation's other pictures leave.

    Raises:
        UsageError: it is an address, no data URL of a picture, or what `decode_picture` refuses.
    """
    if not url.startswith(_DATA):
        raise UsageError(
            "image_url: only data URLs are taken (data:image/png;base64,...); no address is fetched, send the bytes"
        )
    head, comma, text = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise UsageError("image_url: a data URL is data:image/png;base64, and the picture's bytes in base64")
    if len(text) > MOST_NBYTES // 3 * 4 + 4:
        raise UsageError(_too_large("image_url", f"{len(text) / 4 * 3 / 1e6:.0f} MB", f"{MOST_NBYTES / 1e6:.0f} MB"))
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"image_url: its base64 is damaged: {error}") from error
    return decode_picture(data, "picture", left)


def decode_picture(data: bytes, name: str, left: int = MOST_PIXELS) -> Picture:
    """Decodes a picture, once its header says that it is of a bearable size.

    Args:
        data: The encoded bytes.
        name: As shown, and named in errors.
        left: Pixels that a conversation's other pictures leave.

    Raises:
        UsageError: no picture of `FORMATS`, damaged, or too large.
        UnsupportedModelError: mlx-vlm, which brings Pillow, is not installed.
    """
    if len(data) > MOST_NBYTES:
        raise UsageError(_too_large(name, f"{len(data) / 1e6:.0f} MB", f"{MOST_NBYTES / 1e6:.0f} MB"))
    require(f"{name}: a picture")
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise UsageError(_too_large(name, f"{width} x {height} pixels", f"{MOST_PIXELS:,} pixels"))
            if width * height > left:
                raise UsageError(
                    f"the conversation's pictures have more than the {MOST_PIXELS_TOGETHER:,} pixels together that are "
                    "taken: send fewer, or smaller ones"
                )
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except UsageError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds over a damaged file
        text = " ".join(str(error).split())[:120] or type(error).__name__
        raise UsageError(f"{name}: no picture that can be read ({', '.join(FORMATS)}): {text}") from error
    return Picture(name, digest.of([data]), image)


def _too_large(name: str, size: str, most: str) -> str:
    return f"{name}: the picture has {size}, more than the {most} that are taken: make it smaller"
