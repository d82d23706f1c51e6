"""Entry point of the command ``pipeline``.

A hundred thousand objects come with Dagster and stay until the end. Looking for garbage among them
costs half a second per command, so the collector never sees them.
"""

import gc

from pipeline import surroundings


def main() -> None:
    """Run the command line."""
    gc.disable()
    surroundings.adapt()
    from pipeline import cli  # with the collector off, so not at the top

    gc.enable()
    gc.freeze()
    try:
        cli.main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
