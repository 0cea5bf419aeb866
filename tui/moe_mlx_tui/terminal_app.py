"""What the terminal gets: each thing said once, plain signs where asked for, colours that can be read, pictures."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from textual.app import App
from textual.constants import SCREENSHOT_LOCATION
from textual.driver import Driver
from textual.filter import LineFilter
from textual.screen import Screen

from moe_mlx.system.terminal import harmless
from moe_mlx.system.whole_files import write_whole
from moe_mlx_tui.drawing.contrast import readable
from moe_mlx_tui.drawing.lean_output import compact
from moe_mlx_tui.drawing.plain_output import PlainSigns
from moe_mlx_tui.entry import clipboard
from moe_mlx_tui.hang_up import UntilHangUp
from moe_mlx_tui.saved.paths import data_folder
from moe_mlx_tui.sturdy import Sturdy, SturdyScreen


class TerminalApp(Sturdy, App[int]):
    """An app that knows nothing of models. `plain` keeps all that it draws to ASCII."""

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__()
        self.plain = plain
        self._plain_signs = PlainSigns()
        self.survives_headless = False

    def get_driver_class(self) -> type[Driver]:
        """Returns the platform's driver, made to say each thing once."""
        driver = super().get_driver_class()
        if driver.__module__ != "textual.drivers.linux_driver":
            return driver

        class LeanDriver(driver):  # type: ignore[misc, valid-type]
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                file: Any = sys.__stderr__
                self._file = UntilHangUp(file)

            def write(self, data: str) -> None:
                super().write(compact(data))

            def start_application_mode(self) -> None:
                # A hang-up comes with a SIGCONT, which begins once more: a second reader of the keys, or one without a
                # terminal, would never end, and the process would outlive its window.
                if not os.isatty(self.fileno):
                    return
                self.disable_input()
                if self._writer_thread is not None:
                    self._writer_thread.stop()
                super().start_application_mode()

        return LeanDriver

    def get_default_screen(self) -> Screen[Any]:
        """Returns the screen that everything else stands on."""
        return SturdyScreen(id="_default")

    @property
    def survives(self) -> bool:
        """Whether an unexpected error is told and survived; without a terminal, as in tests, it ends the app."""
        return self.survives_headless or not self.is_headless

    def mishap(self, error: Exception) -> None:
        """Tells of an unexpected error and notes where it came from; who has something to keep, keeps it."""
        where = data_folder() / "errors.log"
        try:
            write_whole(where, "".join(traceback.format_exception(error)), private=True)
            noted = f"; the details are in {where}"
        except OSError:
            noted = ""
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.notify(
            harmless(f"Something went wrong ({type(error).__name__}: {line}). The conversation is kept{noted}."),
            severity="error",
            markup=False,
            timeout=10,
        )

    def copy_to_clipboard(self, text: str) -> None:
        """Copies through the terminal, which works over SSH too, and into the machine's own clipboard."""
        super().copy_to_clipboard(text)
        if not (self.is_headless or self.is_web):
            self.run_worker(partial(clipboard.copy, text), thread=True, group="copy", exit_on_error=False)

    def action_suspend(self) -> None:
        """Stops the process as Ctrl+Z does in a shell; `fg` draws the screen again and goes on."""
        if self._driver is not None and self._driver.can_suspend:
            self.action_suspend_process()
        else:
            self.notify("Only an app on a terminal of its own can be suspended.", severity="warning", timeout=3)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Returns what goes over each line before it is drawn."""
        filters = super().get_line_filters()
        return [*filters, self._plain_signs] if self.plain else filters

    def get_css_variables(self) -> dict[str, str]:
        """Returns the theme's variables, its inks made legible."""
        self.theme_variables = readable(super().get_css_variables())
        return self.theme_variables

    def action_screenshot(self, filename: str | None = None, path: str | None = None) -> None:
        """Saves the screen as SVG and says where; in a browser it is handed to that."""
        if self.is_web:
            self.deliver_screenshot(filename, path)
            return
        folder = Path(path or SCREENSHOT_LOCATION or Path.home() / "Downloads").expanduser()
        file = folder / (filename or free_name(folder))
        try:
            write_whole(file, self.export_screenshot())
        except OSError as error:
            self.notify(f"no screenshot: {error.strerror} ({file})", severity="error", markup=False)
            return
        self.notify(f"The screen is in {file}", markup=False, timeout=8)


def free_name(folder: Path) -> str:
    """Returns the first of `moe-mlx-1.svg` and so on that is not there yet."""
    number = 1
    while (folder / f"moe-mlx-{number}.svg").exists():
        number += 1
    return f"moe-mlx-{number}.svg"
