"""A real browser and a local server: what the check of the pages and their pictures are made with."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

QUIET = (
    "--no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage"
).split()


def find_chromium() -> str | None:
    """The browser: the variable CHROMIUM, else the system's."""
    named = os.environ.get("CHROMIUM")
    candidates = (
        [named] if named else ["/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"]
    )
    return next((path for name in candidates if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET)
        try:
            yield instance
        finally:
            instance.close()


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = (
        128  # a page asks for many files at once; the default of 5 loses some on a busy computer
    )

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
def new_context(instance: Browser, viewport: dict, **options: object) -> Iterator[BrowserContext]:
    context = instance.new_context(viewport=viewport, **options)
    context.set_default_timeout(30_000)
    try:
        yield context
    finally:
        context.close()


def open_page(page: Page, address: str) -> None:
    page.goto(address, wait_until="load")
    page.wait_for_function("() => !window.MathJax || MathJax.startup?.promise", timeout=20_000)
    page.evaluate(
        "async () => { if (window.MathJax) await MathJax.startup.promise; await document.fonts.ready; }"
    )
