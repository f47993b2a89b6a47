"""Signals that ask a program to stop: the first one after the present epoch, the second at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Stop:
    """Whether a signal has asked to stop.

    Attributes:
        number: The number of the signal; 0 if there was none.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.number > 0

    @property
    def name(self) -> str:
        """The signal's name."""
        return signal.Signals(self.number).name

    @property
    def status(self) -> int:
        """The exit status of a program that a signal has ended, by the habit of shells."""
        return 128 + self.number


@contextmanager
def listening(on_signal: Callable[[int], None] = lambda number: None) -> Iterator[Stop]:
    """Within this context signals are noted instead of ending the program.

    What the program's caller has told it to ignore stays ignored, as ``nohup`` does with SIGHUP.

    Args:
        on_signal: Called with the number of each signal.

    Raises:
        KeyboardInterrupt: A second signal comes.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        on_signal(number)
        if stop.number:
            raise KeyboardInterrupt
        stop.number = number
        text = f"{stop.name}: stopping after the present epoch; once more stops at once.\n"
        os.write(2, text.encode())  # a signal may come in the midst of a print

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in NAMES:
            number = getattr(signal, name, None)  # Windows lacks SIGHUP
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
