"""A real browser and a local server, for the check of the pages and their pictures."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, sync_playwright

Scheme = Literal["light", "dark"]
QUIET = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


def find_chromium() -> str | None:
    """The browser: the variable CHROMIUM, else the system's."""
    usual = ["/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"]
    named = os.environ.get("CHROMIUM")
    paths = map(shutil.which, [named] if named else usual)
    return next(filter(None, paths), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A running Chromium without a window."""
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET)
        try:
            yield instance
        finally:
            instance.close()


class Handler(SimpleHTTPRequestHandler):
    """Answers and says nothing."""

    def log_message(self, *arguments: object) -> None:
        """Print no line for each request."""


class Server(ThreadingHTTPServer):
    """A server for a page that asks for many files at once."""

    request_queue_size = 128  # the default of 5 loses some on a busy computer

    def handle_error(self, *arguments: object) -> None:
        """A browser that closes a page while it loads is no error."""


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve the folder on a free port of this computer; gives the address."""
    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def new_context(
    instance: Browser, viewport: ViewportSize, color_scheme: Scheme = "light"
) -> Iterator[BrowserContext]:
    """A fresh profile with a window of this size."""
    context = instance.new_context(viewport=viewport, color_scheme=color_scheme)
    context.set_default_timeout(30_000)
    try:
        yield context
    finally:
        context.close()


def open_page(page: Page, address: str) -> None:
    """Open a page and wait until its letters are there."""
    page.goto(address, wait_until="load")
    page.evaluate("async () => { await document.fonts.ready; }")
