"""The gate before the web server, and one engine behind several screens."""

import threading

import pytest

from moe_mlx.errors import StoreMissingError
from moe_mlx_tui.engine.orders import Ask, Close, Configure, Load, Stop
from moe_mlx_tui.engine.shared_engine import SharedEngine
from moe_mlx_tui.engine.snapshot import CLOSED
from moe_mlx_tui.web.remote_source import RemoteSource
from tests.tui import scene
from tests.tui.waiting import until

pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")


async def statuses(here, requests):
    """Serves two pages behind the gate and returns what each request is answered."""
    from aiohttp import ClientSession, CookieJar, web

    from moe_mlx_tui.web.gate import Gate

    async def page(request):
        return web.Response(text="page")

    app = web.Application(middlewares=[Gate("secret", here=here).middleware()])
    app.add_routes([web.get("/", page), web.get("/ws/{name}", page), web.get("/static/x", page)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    out = []
    try:
        for path, headers in requests:
            async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
                filled = {k: v.replace("PORT", str(port)) for k, v in headers.items()}
                answer = await session.get(f"http://127.0.0.1:{port}{path}", headers=filled)
                out.append(answer.status)
    finally:
        await runner.cleanup()
    return out


async def test_on_this_machine_only_its_own_names_and_pages_are_served():
    known = {"Cookie": "moe_mlx_token=secret"}
    asked = [
        ("/", known),
        ("/", {"Host": "localhost:PORT", **known}),
        ("/", {"Host": "elsewhere.example", **known}),
        ("/ws/a", {"Origin": "http://127.0.0.1:PORT", **known}),
        ("/ws/a", {"Origin": "http://elsewhere.example", **known}),
        ("/ws/a", known),
    ]
    assert await statuses(True, asked) == [200, 200, 403, 200, 403, 403]


@pytest.mark.parametrize("here", [True, False], ids=["this machine", "beyond it"])
async def test_nothing_is_served_without_the_token(here):
    asked = [
        ("/", {}),
        ("/static/x", {}),
        ("/ws/a", {"Origin": "http://127.0.0.1:PORT"}),
        ("/?token=wrong", {}),
        ("/", {"Cookie": "moe_mlx_token=wrong"}),
        ("/", {"Cookie": "moe_mlx_token=secret"}),
        ("/ws/a", {"Cookie": "moe_mlx_token=secret", "Origin": "http://127.0.0.1:PORT"}),
        ("/ws/a", {"Cookie": "moe_mlx_token=secret", "Origin": "http://elsewhere.example"}),
        ("/static/x?token=secret", {}),
    ]
    assert await statuses(here, asked) == [403, 403, 403, 403, 403, 200, 200, 403, 403]


async def test_the_printed_address_lets_in_and_the_cookie_keeps():
    assert await statuses(False, [("/?token=secret", {})]) == [200]


def test_tokens_and_loopback():
    from moe_mlx.system.addresses import is_loopback
    from moe_mlx_tui.web.gate import new_token

    assert len(new_token()) >= 32 and new_token() != new_token()
    assert [is_loopback(h) for h in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.2", "mac.local")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.fixture
def shared(engine, tmp_path):
    """A shared engine and a way to open screens on it."""
    home = SharedEngine(engine, tmp_path / "s")
    engine.listeners.append(home.wake)
    home.start()
    screens = []

    def screen():
        source = RemoteSource(tmp_path / "s")
        screens.append(source)
        source.start()
        return source

    yield engine, screen, home
    for source in screens:
        source.close()
    home.close()


def ask(turn):
    return Ask(turn, 0, ({"role": "user", "content": "tell me"},))


def test_two_screens_share_an_engine_and_see_their_own_answers_only(shared):
    engine, screen, _ = shared
    one, two = screen(), screen()
    until(one, lambda s: s.phase == "idle")
    until(two, lambda s: s.phase == "idle")
    mine = until(one, lambda s: s.turn == "one" and s.receipt is not None, lambda: one.submit(ask("one")))
    assert mine.text and mine.text == engine.latest.text and mine.cells == engine.latest.cells
    theirs = until(two, lambda s: s.running.steps == mine.running.steps)
    assert theirs.turn == theirs.text == theirs.prompt == "" and theirs.cells == mine.cells
    answered = until(two, lambda s: s.turn == "two" and s.receipt is not None, lambda: two.submit(ask("two")))
    assert answered.receipt.tokens == 12


def test_a_screen_cannot_stop_another_or_end_the_engine(tmp_path):
    still = scene.Still(scene.idle())
    arrived = threading.Semaphore(0)
    keep = still.submit
    still.submit = lambda order: (keep(order), arrived.release())
    home = SharedEngine(still, tmp_path / "s")
    home.start()
    one, two = RemoteSource(tmp_path / "s"), RemoteSource(tmp_path / "s")
    one.submit(ask("long"))
    assert arrived.acquire(timeout=60)
    for order in (Stop("long"), Close(), Configure(routing={"routing": "exact"})):
        two.submit(order)
    assert arrived.acquire(timeout=60)
    one.submit(Stop("long"))
    assert arrived.acquire(timeout=60)
    assert still.orders == [ask("long"), Configure(routing={"routing": "exact"}), Stop("long")]
    for source in (one, two, home):
        source.close()


def test_where_the_model_is_its_owner_s_choice_a_screen_cannot_load_another(tmp_path):
    still = scene.Still(scene.idle())
    arrived = threading.Semaphore(0)
    keep = still.submit
    still.submit = lambda order: (keep(order), arrived.release())
    home = SharedEngine(still, tmp_path / "s", may_load=False)
    home.start()
    one = RemoteSource(tmp_path / "s")
    for order in (Load("elsewhere"), Load(options={"model": "elsewhere"}), Load(options={"evict": "lfu"})):
        one.submit(order)
    one.submit(ask("long"))
    assert arrived.acquire(timeout=60) and arrived.acquire(timeout=60)
    assert still.orders == [Load(options={"evict": "lfu"}), ask("long")]
    for source in (one, home):
        source.close()


def test_a_screen_that_goes_stops_what_it_asked_for(shared):
    engine, screen, _ = shared
    one = screen()
    until(one, lambda s: s.phase == "idle")
    engine._model.session.tokenizer.eos_token_ids = []  # the tiny model must not end the answer by itself
    one.submit(Configure(sampling={"max_tokens": 100000}))
    until(one, lambda s: s.phase == "decode", lambda: one.submit(ask("long")))
    gone = until(engine, lambda s: s.receipt is not None, one.close)
    assert gone.receipt.finish == "cancelled"


def test_a_screen_whose_engine_goes_is_told(shared):
    _, screen, home = shared
    one = screen()
    until(one, lambda s: s.phase == "idle")
    assert until(one, lambda s: s.phase == CLOSED, home.close).error


def test_rubbish_on_the_socket_ends_that_screen_only(shared):
    _, screen, _ = shared
    one, two = screen(), screen()
    until(two, lambda s: s.phase == "idle")
    one._peer.sendall(b'{"order":"format the disk"}\n')
    until(one, lambda s: s.phase == CLOSED)
    assert until(two, lambda s: s.turn == "ok" and s.receipt is not None, lambda: two.submit(ask("ok")))


def test_no_engine_no_screen(tmp_path):
    with pytest.raises(StoreMissingError, match="--web"):
        RemoteSource(tmp_path / "nothing")
