"""What ends a long command besides Ctrl-C."""

from __future__ import annotations

import signal


def interrupt_on_signals() -> None:
    """Let SIGTERM, as of schedulers, and SIGHUP, as of a terminal that is gone, end this as Ctrl-C does: in order."""

    def end(*_: object) -> None:
        # The shell that hangs up may send it once more, while what came is being kept.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup ignores it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
