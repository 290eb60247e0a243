"""The `jedlik` command's way in: Ctrl-C ends it with 130, quietly, from the first import on."""

import os
import signal

EXIT_STOPPED = 130


def main() -> None:
    """Import the commands and run the one that was asked for."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(EXIT_STOPPED))
    from jedlik.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
