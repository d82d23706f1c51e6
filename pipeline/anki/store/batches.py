"""Batches bounded by bytes, so that many small items need few requests and large ones fit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

BYTES = 4 * 2**20
"""The size of a batch; a larger item is a batch of its own."""

REQUEST_BYTES = 512 * 2**10
"""The size of a request to AnkiConnect, which reads 1 KiB at a time and then copies all before."""

_FIRST, _GROWTH = 500, 4
"""How many items are asked for first, and how many times as many as before the next time."""

_T = TypeVar("_T")


def by_bytes(
    items: Iterable[_T], size: Callable[[_T], int], *, most: int = BYTES
) -> Iterator[list[_T]]:
    """Batches of items in their order; ``size`` is in bytes."""
    batch: list[_T] = []
    total = 0
    for item in items:
        more = size(item)
        if batch and total + more > most:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += more
    if batch:
        yield batch


def by_answers(
    items: Sequence[int], ask: Callable[[Sequence[int]], list[_T]], size: Callable[[_T], int]
) -> Iterator[_T]:
    """Answers about items, asked for in batches; the size of answers decides about the next batch.

    A batch grows slowly, because later answers may be larger.
    """
    start, number = 0, _FIRST
    while start < len(items):
        batch = items[start : start + number]
        answers = ask(batch)
        yield from answers
        start += len(batch)
        taken = max(1, sum(map(size, answers)))
        number = max(1, min(_GROWTH * number, BYTES * len(batch) // taken))
