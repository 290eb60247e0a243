"""`jedlik top`: a page of a running server, refreshed in place, or printed once for a script.

A server that does not answer is asked again and again, on the page; once, it is a ConfigError. Looks are taken on a
thread of their own, so that a slow server never delays a key.
"""

import queue
import sys
import threading
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from jedlik.console.keys import Key, Keyboard
from jedlik.console.sample import History, ServerLook, look
from jedlik.console.top_page import Detail, render
from jedlik.console.view import View, of_history
from jedlik.core.errors import ConfigError

TURN_S = 0.2
"""The terminal's size is read this often, in seconds."""
MARGIN_LINES = 3
"""The lines below the page: an empty line, the keys, and one that stays free."""
MIN_ROWS = 6
"""This many workers are shown before any decision is."""
DETAILS = ((3, 1), (2, 1), (1, 1), (3, 0), (1, 0), (0, 0))
"""Pairs of decisions and decisions with numbers; the first pair that fits is shown."""


def top(url: str, api_key: str | None, once: bool, interval_s: float) -> None:
    """Show the page until q or Ctrl-C, or print it once. Raises ConfigError where one page is asked for and nobody
    answers."""
    console = Console()
    if once or not console.is_terminal:
        console.print(render(two_looks(url, api_key, interval_s), console.width))
        return
    watch(console, Watcher(url, api_key, interval_s))


def two_looks(url: str, api_key: str | None, interval_s: float) -> View:
    """Return the view after two looks, which rates need."""
    history = History()
    history.add(look(url, api_key))
    time.sleep(interval_s)
    history.add(look(url, api_key))
    found = of_history(history)
    assert found is not None
    return found


class Watcher:
    """Looks at a server on a thread of its own until it is stopped."""

    def __init__(self, url: str, api_key: str | None, interval_s: float) -> None:
        self.url, self.interval_s = url, interval_s
        self.seen: queue.SimpleQueue[ServerLook | ConfigError] = queue.SimpleQueue()
        self._api_key = api_key
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="look", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to stop, without waiting for it: a look under way ends with the process."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.seen.put(look(self.url, self._api_key))
            except ConfigError as error:
                self.seen.put(error)
            self._stop.wait(self.interval_s)


class Screen:
    """The state of the live page: the newest look or the reason why there is none, and the scroll position."""

    def __init__(self, url: str, interval_s: float) -> None:
        self._url, self._interval_s = url, interval_s
        self._history = History()
        self._shown: View | None = None
        self.lost = ""
        """The reason why the server can't be seen now."""
        self.paused = False
        self.first = 0

    def take(self, seen: ServerLook | ConfigError) -> None:
        """Add a look, or the reason why there is none. While paused, looks are stored and not shown."""
        if isinstance(seen, ConfigError):
            self.lost = str(seen)
            return
        self.lost = ""
        self._history.add(seen)
        if not self.paused:
            self._shown = of_history(self._history)

    def press(self, key: Key, rows: int) -> None:
        match key:
            case "pause":
                self.paused = not self.paused
                if not self.paused:
                    self._shown = of_history(self._history)
            case "up" | "page up":
                self.first = max(0, self.first - (1 if key == "up" else rows))
            case "down" | "page down":
                most = max(0, self._count() - rows)
                self.first = min(most, self.first + (1 if key == "down" else rows))
            case "quit":
                pass

    def detail(self, width: int, height: int) -> Detail:
        """Return how much of the page fits; some workers come before any decision."""
        console = Console(width=width, height=height)
        for decisions, reasons in DETAILS:
            detail = Detail(1, decisions, reasons)
            others = len(console.render_lines(self._body(width, detail), pad=False)) - 1
            rows = height - others - MARGIN_LINES - bool(self.lost)
            if rows >= min(self._count(), MIN_ROWS):
                break
        return Detail(max(rows, 1), decisions, reasons)

    def page(self, width: int, height: int) -> RenderableType:
        """Return the page with the line of keys below it."""
        parts: list[RenderableType] = []
        if self.lost:
            parts.append(Text(f" {self.lost}; trying again every {self._interval_s:g} s", style="bold red"))
        if self._shown is None:
            parts.append(Text("" if self.lost else f" looking at {self._url} ...", style="dim"))
        else:
            parts.append(self._body(width, self.detail(width, height)))
        return Group(*parts, Text(), self._keys())

    def _body(self, width: int, detail: Detail) -> RenderableType:
        return Text() if self._shown is None else render(self._shown, width, detail, self.first)

    def _keys(self) -> Text:
        line = Text(" ")
        if self.paused:
            line.append(" PAUSED ", style="black on yellow")
            line.append(" ")
        line.append(f"q quit · p pause · ↑↓ scroll · every {self._interval_s:g} s · {self._url}", style="dim")
        return line

    def _count(self) -> int:
        return 0 if self._shown is None else len(self._shown.rows)


def watch(console: Console, watcher: Watcher) -> None:
    """The live page, until q or Ctrl-C."""
    screen, keyboard = Screen(watcher.url, watcher.interval_s), Keyboard()
    watcher.start()
    try:
        with keyboard.listening(), Live(console=console, screen=True, auto_refresh=False) as live:
            drawn: tuple[int, int] | None = None
            while True:
                fresh = _drain(watcher, screen)
                keys = keyboard.pressed(0.0 if fresh else TURN_S)
                width, height = console.size
                for key in keys:
                    screen.press(key, screen.detail(width, height).rows or 1)
                if "quit" in keys:
                    return
                if fresh or keys or drawn != (width, height):
                    live.update(screen.page(width, height), refresh=True)
                    drawn = (width, height)
    except KeyboardInterrupt:
        return
    finally:
        watcher.stop()
        sys.stdout.flush()


def _drain(watcher: Watcher, screen: Screen) -> bool:
    """Take all looks that have come. Return whether there were any."""
    fresh = False
    while not watcher.seen.empty():
        screen.take(watcher.seen.get())
        fresh = True
    return fresh
