"""Pictures of strangers: what is none, too large, or expands to too much is refused before it is decoded."""

import base64
import struct
import zlib
from pathlib import Path

import pytest

pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed: the extra `vlm`")

import mlx.core as mx
from PIL import Image

from moe_mlx.errors import UsageError
from moe_mlx.vlm import pictures
from moe_mlx.vlm.pictures import decode_picture, picture_of_url, pictures_of_urls, read_picture
from moe_mlx.vlm.processing import PicturePrompt
from tests.families.pictures import png


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it has so many pixels, and would expand to them."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_format_is_taken(kind: str) -> None:
    picture = decode_picture(png(kind=kind), "a")
    assert picture.size == (48, 32) and picture.image.mode == "RGB"
    assert picture.digest == decode_picture(png(kind=kind), "b").digest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"II*\0" + bytes(100),
        png()[:60],
        bytes(5000),
    ],
    ids=["nothing", "a gif's head", "a png's head", "postscript", "tiff", "cut short", "zeros"],
)
def test_what_is_no_picture_is_told(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"x\.png: no picture that can be read"):
        decode_picture(data, "x.png")


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for width, height in ((60_000, 60_000), (2_000_000_000, 1), (pictures.MOST_PIXELS + 1, 1)):
        with pytest.raises(UsageError, match=r"pixels|no picture"):
            decode_picture(bomb(width, height), "bomb.png")


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_NBYTES", 1000)
    (tmp_path / "big.png").write_bytes(bytes(1001))
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    with pytest.raises(UsageError, match="make it smaller"):
        read_picture(tmp_path / "big.png")
    with pytest.raises(UsageError, match="make it smaller"):
        picture_of_url("data:image/png;base64," + "A" * 2000)


@pytest.mark.parametrize("name", ["nothing.png", "."])
def test_what_is_no_file_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_picture(tmp_path / name)


def test_data_urls_are_decoded_and_addresses_refused() -> None:
    whole = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert picture_of_url(whole).size == (48, 32)
    for url in ("https://example.org/a.png", "file:///etc/passwd", "/etc/passwd", "data:text/plain;base64,AAAA", ""):
        with pytest.raises(UsageError, match="no address is fetched"):
            picture_of_url(url)
    for url in ("data:image/png;base64", "data:image/png,AAAA", whole[:-7] + "!!"):
        with pytest.raises(UsageError, match="base64"):
            picture_of_url(url)


def test_the_pictures_of_a_conversation_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "data:image/png;base64," + base64.b64encode(png()).decode()
    monkeypatch.setattr(pictures, "MOST_PIXELS_TOGETHER", 2 * 48 * 32)
    assert [picture.size for picture in pictures_of_urls([whole] * 2)] == [(48, 32)] * 2
    with pytest.raises(UsageError, match="pixels together"):
        pictures_of_urls([whole] * 3)
    monkeypatch.setattr(pictures, "decode_picture", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UsageError, match="33 pictures"):
        pictures_of_urls([whole] * 33)


def test_low_detail_is_a_smaller_picture_and_another_one() -> None:
    whole = decode_picture(png(size=(1024, 256)), "a")
    low = whole.in_detail("low")
    assert low.size == (512, 128) and low.digest != whole.digest and whole.size == (1024, 256)
    assert whole.in_detail("high") is whole and whole.in_detail("auto") is whole
    small = decode_picture(png(), "a")
    assert small.in_detail("low") is small


def test_what_is_said_of_each_token_goes_on_with_an_answer() -> None:
    told = {name: mx.ones((1, 3), mx.int32) for name in ("attention_mask", "token_type_ids", "mm_token_type_ids")}
    pixels = mx.ones((1, 3, 3, 3))
    inputs = {**told, "images_seq_mask": mx.array([[False, True, False]]), "pixel_values": pixels}
    longer = PicturePrompt([1, 2, 3], ("a",), inputs).then([4, 5])
    assert list(longer) == [1, 2, 3, 4, 5] and longer.inputs["pixel_values"] is pixels
    assert longer.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1]]
    assert longer.inputs["token_type_ids"].tolist() == longer.inputs["mm_token_type_ids"].tolist() == [[1, 1, 1, 0, 0]]
    assert longer.inputs["images_seq_mask"].tolist() == [[False, True, False, False, False]]
