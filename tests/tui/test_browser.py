"""The page in a real browser, on a phone, a tablet both ways round and a desktop. Without a browser it says so."""

import os

import pytest

from moe_mlx_tui.engine.orders import Ask, Configure, Load, Stop
from moe_mlx_tui.engine.shared_engine import SharedEngine
from tests.tui import scene
from tests.tui.serving import site

pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")

from moe_mlx_tui.web.tab_options import TabOptions
from tests.tui.browser import browse, find

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find() is None, reason="no Chromium: install the system's package chromium to run these"),
]
#: Width, height, whether fingers are used.
PHONE, UPRIGHT, ACROSS, DESK = (390, 844, True), (820, 1180, True), (1180, 820, True), (1440, 900, False)
BUTTONS = ["Stop", "Map", "25", "50", "75", "Sessions", "Palette", "Model"]
BOXES = """(() => {
  const box = (e) => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom].map(Math.round) };
  return {
    bar: box(document.querySelector('#touch')), terminal: box(document.querySelector('#terminal')),
    screen: box(document.querySelector('.xterm-screen')), window: [innerWidth, innerHeight],
    buttons: [...document.querySelectorAll('#touch button')].map((b) => [b.textContent, ...box(b)]),
    focus: document.activeElement.className, title: document.title, wide: document.documentElement.scrollWidth,
    font: document.fonts.check('16px "Roboto Mono"'),
  }
})()"""


@pytest.fixture
def source(tmp_path):
    """What every tab shows."""
    still = scene.Still(scene.idle())
    home = SharedEngine(still, tmp_path / "s")

    def publish(snapshot):
        still.latest = snapshot
        home.wake(snapshot)

    still.publish = publish
    home.start()
    yield still
    home.close()


def told(tmp_path, **changes):
    return TabOptions(engine=str(tmp_path / "s"), home=str(tmp_path / "home"), kept="", server=os.getpid(), **changes)


async def ordered(tab, source, wanted, act=None):
    """Acts, then waits, a frame of the page at a time, until an order of that kind is there; returns it."""
    if act is not None:
        await act()
    for _ in range(3000):
        found = [order for order in source.orders if isinstance(order, wanted)]
        if found:
            return found[-1]
        await tab.ask("new Promise((done) => requestAnimationFrame(done))")
    raise AssertionError(f"no {wanted.__name__} came: {source.orders}")


async def opened(tab, served, size):
    width, height, touch = size
    await tab.size(width, height, touch=touch)
    await tab.go(f"{served.at}/?token=secret")
    await tab.drawn("Enter sends")


async def touched(tab, words):
    """Clicks the button of that name in the touch bar."""
    boxes = await tab.ask(BOXES)
    (left, top, right, bottom) = next(box for name, *box in boxes["buttons"] if name == words)
    await tab.click((left + right) // 2, (top + bottom) // 2)


@pytest.mark.parametrize("size", [PHONE, UPRIGHT, ACROSS, DESK], ids=["390", "820", "1180", "1440"])
async def test_the_layout_fits_and_is_ours_alone(source, tmp_path, size):
    width, height, touch = size
    async with site(told(tmp_path), tmp_path) as (served, _), browse(find(), tmp_path / "profile") as tab:
        await opened(tab, served, size)
        boxes = await tab.ask(BOXES)
        assert boxes["title"] == "moe-mlx" and boxes["focus"] == "xterm-helper-textarea" and boxes["font"]
        assert boxes["window"] == [width, height] and boxes["wide"] <= width, "nothing to scroll sideways"
        assert [name for name, *_ in boxes["buttons"]] == BUTTONS
        for name, left, top, right, bottom in boxes["buttons"]:
            assert left >= 0 and right <= width and bottom <= height and bottom - top >= (44 if touch else 30), name
        assert boxes["terminal"][3] <= boxes["bar"][1] + 1 and boxes["bar"][3] == height
        left, top, right, bottom = boxes["screen"]
        assert right - left >= width - 20 and bottom - top >= boxes["bar"][1] - 30, "the terminal fills what there is"
        assert all(url.startswith((served.at, "data:")) for url in tab.requested) and not tab.thrown


async def test_the_bar_does_what_it_says_and_typing_goes_on(source, tmp_path):
    async with site(told(tmp_path), tmp_path) as (served, _), browse(find(), tmp_path / "profile") as tab:
        await opened(tab, served, PHONE)
        cap = await ordered(tab, source, Configure, lambda: touched(tab, "25"))
        assert cap == Configure(expert_cache="25%")
        await tab.type("hello")
        ask = await ordered(tab, source, Ask, lambda: tab.press("Enter", "Enter", 13))
        assert ask.messages[-1]["content"] == "hello", "the bar took no focus"
        stop = await ordered(tab, source, Stop, lambda: touched(tab, "Stop"))
        assert stop == Stop(ask.turn)


async def test_a_hint_that_is_clicked_does_what_it_says(source, tmp_path):
    async with site(told(tmp_path), tmp_path) as (served, _), browse(find(), tmp_path / "profile") as tab:
        await opened(tab, served, DESK)
        await tab.type("hello")
        ask = await ordered(tab, source, Ask, lambda: tab.press("Enter", "Enter", 13))
        source.publish(scene.decode(ask.turn, 20, "So far."))
        await tab.drawn("Esc stop")
        _, _, right, bottom = (await tab.ask(BOXES))["screen"]
        back = len("Esc stop  ^P palette  ^G map  ? help ") - 4  # the hints stand at the line's right end
        letter = 9  # columns are as wide as that at 16 pixels
        stop = await ordered(tab, source, Stop, lambda: tab.click(round(right - back * letter), bottom - 10))
        assert stop == Stop(ask.turn)


async def test_a_reload_brings_the_conversation_back(source, tmp_path):
    async with site(told(tmp_path), tmp_path) as (served, _), browse(find(), tmp_path / "profile") as tab:
        await opened(tab, served, UPRIGHT)
        await tab.type("what was said")
        ask = await ordered(tab, source, Ask, lambda: tab.press("Enter", "Enter", 13))
        source.publish(scene.over(scene.decode(ask.turn, 20, "It was answered.")))
        await tab.drawn("It was answered.")
        await tab.type("unsent")
        source.publish(scene.idle())
        await tab.reload()
        await tab.drawn("It was answered.")
        await tab.drawn("unsent")
        assert (await tab.ask(BOXES))["focus"] == "xterm-helper-textarea"
        source.orders.clear()
        again = await ordered(tab, source, Ask, lambda: tab.press("Enter", "Enter", 13))
        said = [message["content"] for message in again.messages]
        assert said == ["what was said", "It was answered.", "unsent"]


async def test_the_bar_stays_above_a_phone_s_keyboard(source, tmp_path):
    async with site(told(tmp_path), tmp_path) as (served, _), browse(find(), tmp_path / "profile") as tab:
        await opened(tab, served, PHONE)
        await tab.size(390, 460, touch=True)  # what the keyboard leaves
        await tab.until("document.querySelector('.xterm-screen').getBoundingClientRect().bottom <= 411")
        boxes = await tab.ask(BOXES)
        assert boxes["bar"][3] <= 460 and boxes["screen"][3] <= boxes["bar"][1] + 1


async def test_which_model_runs_is_the_owner_s_choice_beyond_this_machine(source, tmp_path):
    options = told(tmp_path, models=False)
    async with site(options, tmp_path) as (served, _), browse(find(), tmp_path / "profile") as tab:
        await opened(tab, served, ACROSS)
        await touched(tab, "Model")
        await tab.drawn("Which model runs")
        await tab.type("go on")
        ask = await ordered(tab, source, Ask, lambda: tab.press("Enter", "Enter", 13))
        assert ask.messages[-1]["content"] == "go on", "no list stood in the way"
        assert not any(isinstance(order, Load) for order in source.orders)
