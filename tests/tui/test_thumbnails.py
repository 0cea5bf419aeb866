"""Pictures in a message: drawn small where the terminal has the colours, named with their size where it has not."""

from pathlib import Path

import pytest

pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed: the extra `vlm`")

from PIL import Image
from textual.app import App, ComposeResult

from moe_mlx_tui.drawing.thumbnail import COLUMNS, ROWS, half_blocks, thumbnail
from moe_mlx_tui.entry.files import split_files, with_files
from moe_mlx_tui.widgets.transcript import Message
from tests.families.pictures import png


class Shown(App[None]):
    attaches, draws_pictures = True, True

    def __init__(self, text: str) -> None:
        super().__init__()
        self.message = Message(text)

    def compose(self) -> ComposeResult:
        yield self.message


def test_two_pixels_a_character_in_their_colours() -> None:
    image = Image.new("RGB", (2, 3), (0, 0, 255))
    image.putpixel((0, 0), (255, 0, 0))
    drawn = half_blocks(image)
    assert drawn.plain == "▀▀\n▀▀"
    first, below = drawn.spans[0].style, drawn.spans[-1].style
    assert first.foreground.rgb == (255, 0, 0) and first.background.rgb == (0, 0, 255)
    assert below.foreground.rgb == (0, 0, 255) and below.background is None


@pytest.mark.parametrize("size", [(4000, 10), (10, 4000), (1, 1), (640, 480)])
def test_no_picture_takes_more_than_its_room(size: tuple[int, int]) -> None:
    lines = half_blocks(Image.new("RGB", size)).plain.split("\n")
    assert 1 <= len(lines) <= ROWS and 1 <= len(lines[0]) <= COLUMNS


def test_another_picture_by_now_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    content, _ = with_files(f"@{tmp_path / 'photo.png'}")
    (file,) = split_files(content)[1]
    assert thumbnail(file.text, file.digest) is not None
    (tmp_path / "photo.png").write_bytes(png((1, 2, 3)))
    assert thumbnail(file.text, file.digest) is None
    (tmp_path / "photo.png").unlink()
    assert thumbnail(file.text, file.digest) is None


@pytest.mark.parametrize(("attaches", "draws"), [(True, True), (True, False), (False, True)])
async def test_a_message_shows_what_the_terminal_can(tmp_path: Path, attaches: bool, draws: bool) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    content, _ = with_files(f"What is @{tmp_path / 'photo.png'}")
    app = Shown(content)
    app.attaches, app.draws_pictures = attaches, draws
    async with app.run_test() as pilot:
        await app.workers.wait_for_complete()
        await pilot.pause()
        said = app.message.content.plain
    assert ("picture, 48 x 32" in said) == attaches and "photo.png  picture" in said
    assert ("▀" in said) == (attaches and draws)
