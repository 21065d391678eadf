"""Working one item ahead in a thread."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """Yield `items` while a thread makes the next one.

    Worth it where making an item releases the interpreter's lock: decompression, digests, Arrow.
    An error raised by `items` comes out at its place in the order.
    """
    end = object()
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]  # not the sentinel, which is of no type in common
