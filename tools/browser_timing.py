"""How fast pages are on a slow computer: what `browser_check.py --timing` prints.

Each page is opened in a fresh profile with the processor four times slower, some times over. Other
work on the same computer only adds to a time, so the shortest counts; what the page's own thread
takes of the processor, waits left out, depends on other work much less and is given too.
"""

import json
import os
from typing import Any, NamedTuple

from playwright.sync_api import Browser, ViewportSize

from tools.browser import new_context, open_page

SLOWDOWN = 4
# Runs before the page does. A shift counts unless the reader caused it.
SHIFTS = """
  window.shifts = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
"""
# All bytes of the page and of what it asked for, in MB; elements.
SIZE = """() => {
  const asked = [...performance.getEntriesByType("navigation"),
                 ...performance.getEntriesByType("resource")];
  return [asked.reduce((sum, entry) => sum + (entry.encodedBodySize || 0), 0) / 1e6,
          document.querySelectorAll("*").length];
}"""
TRACED = [
    "toplevel",
    "loading",
    "blink.user_timing",
    "devtools.timeline",
    "disabled-by-default-devtools.timeline",
]
LATER_MS = 500


class Timing(NamedTuple):
    """What opening a page took.

    Attributes:
        first: Seconds until the first view is there, whose formulas and letters come with it.
        complete: Seconds until all is loaded and what then runs is done.
        first_work: Seconds of the page's thread until the first view.
        work: Seconds of the page's thread until it is complete.
        shift: Cumulative layout shift.
    """

    first: float
    complete: float
    first_work: float
    work: float
    shift: float


def timing(events: list[dict[str, Any]], address: str, shift: float) -> Timing:
    """Times from the events that a browser traced while it opened a page.

    Its thread is at rest at the end of its last task that began before it was complete; tasks of
    less than a millisecond, with which each page goes on, do not count.
    """
    start = [e for e in events if e["name"] == "navigationStart" and address in json.dumps(e)][-1]
    own = [e for e in events if e["pid"] == start["pid"]]
    thread = [e for e in own if e["tid"] == start["tid"] and "tts" in e and e["ts"] >= start["ts"]]
    began = min(e["tts"] for e in thread)

    def work(until: float) -> float:
        """Seconds of the thread until a moment."""
        return (max(e["tts"] for e in thread if e["ts"] <= until) - began) / 1e6

    first = max(e["ts"] for e in own if e["name"] == "firstContentfulPaint")
    tasks = [e for e in thread if e["name"].endswith("RunTask") and e.get("dur", 0) > 1000]
    complete = max(e["ts"] + e["dur"] for e in tasks)
    seconds = [(moment - start["ts"]) / 1e6 for moment in (first, complete)]
    return Timing(seconds[0], seconds[1], work(first), work(complete), shift)


def time_page(instance: Browser, viewport: ViewportSize, address: str) -> tuple[Timing, float, int]:
    """Open a page once, in a fresh profile, with a slow processor; its times, MB and elements."""
    with new_context(instance, viewport) as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.add_init_script(SHIFTS)
        session = context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
        instance.start_tracing(page=page, categories=TRACED)
        open_page(page, address)
        page.wait_for_timeout(LATER_MS)
        events = json.loads(instance.stop_tracing())["traceEvents"]
        shift = page.evaluate("window.shifts")
        megabytes, elements = page.evaluate(SIZE)
    return timing(events, address, shift), megabytes, elements


def best(timings: list[Timing]) -> Timing:
    """The shortest of each time, and the largest shift."""
    first, complete, first_work, work, _ = (min(times) for times in zip(*timings, strict=True))
    return Timing(first, complete, first_work, work, max(timing.shift for timing in timings))


def print_timings(
    instance: Browser,
    looks: dict[str, ViewportSize],
    base: str,
    names: list[str],
    repeats: int = 3,
) -> None:
    """Print a line for each page and look."""
    width = max(map(len, names))
    print(f"Processor {SLOWDOWN} times slower, best of {repeats}; seconds of the clock, of work.")
    print(f"load of this computer at the start: {os.getloadavg()[0]:.1f}")
    print(
        f"{'page':<{width}}  look     first view  of work  complete  of work  shift    MB  elements"
    )
    for name in names:
        for look, viewport in looks.items():
            seen = [time_page(instance, viewport, base + name) for _ in range(repeats)]
            it = best([one for one, *_ in seen])
            _, megabytes, elements = seen[-1]
            first = f"{it.first:10.2f}  {it.first_work:7.2f}"
            complete = f"{it.complete:8.2f}  {it.work:7.2f}"
            size = f"{it.shift:5.3f}  {megabytes:4.2f}  {elements:8}"
            print(f"{name:<{width}}  {look:<7}  {first}  {complete}  {size}", flush=True)
    print(f"load at the end: {os.getloadavg()[0]:.1f}")
