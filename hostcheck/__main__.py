"""The command `hostcheck`, and `python -m hostcheck`: ends as it should where Ctrl-C comes before all is loaded."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command line and run it."""
    try:
        from hostcheck.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
