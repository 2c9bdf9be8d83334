"""What ends a long command besides Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Let SIGTERM, as of schedulers, and SIGHUP, as of a terminal that is gone, end this as Ctrl-C does: in order.

    Where neither came, all is as before afterwards. Where one did, the process is about to end, and holds on to it.
    """
    came = False

    def end(*_: object) -> None:
        nonlocal came
        came = True
        # The shell that hangs up may send it once more, while what came is being kept.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise KeyboardInterrupt

    # nohup ignores it.
    taken = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items() if not came else ():
            signal.signal(number, handler)
