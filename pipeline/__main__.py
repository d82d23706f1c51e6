"""Entry point of the command ``pipeline``.

A hundred thousand objects come with Dagster and stay until the end. Looking for garbage among them
costs half a second per command, so the collector never sees them.
"""

import gc

from pipeline.cli import surroundings

_OBJECTS = 50_000
"""How many new objects let the collector look for garbage; 700 is the default."""


def main() -> None:
    """Run the command line."""
    gc.disable()
    surroundings.adapt()
    surroundings.announce()
    with surroundings.interruptible():
        from pipeline.cli import main  # with the collector off, so not at the top

        surroundings.erase()
        gc.enable()
        # Commands make many small objects that live long; looking at them often finds nothing.
        gc.set_threshold(_OBJECTS)
        gc.freeze()
        try:
            main.main()
        finally:
            gc.freeze()


if __name__ == "__main__":
    main()
