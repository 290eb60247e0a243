"""The `jedlik` command's way in: Ctrl-C ends it with 130, quietly, from the first import on."""

import _signal  # type: ignore[import-not-found]  # all that `signal` needs enums for, which are long to import: Ctrl-C would show where it met them
import os

EXIT_STOPPED = 130


def main() -> None:
    """Import the commands and run the one that was asked for."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, lambda number, frame: os._exit(EXIT_STOPPED))
    from jedlik.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
