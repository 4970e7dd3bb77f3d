"""Process many files in parallel: each worker thread uses a child process of its own.

A file that hangs or crashes a decoder costs at most its time limit (see ``reader``). Closing the
generator early, or Ctrl-C, ends the children at once.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from typing import TypeVar

from omni_rlvr.media.sandbox.reader import ClipReader

Answer = TypeVar("Answer")


def in_children(
    num_items: int,
    do: Callable[[int, ClipReader], Answer],
    *,
    make_reader: Callable[[], ClipReader],
    num_workers: int,
) -> Generator[Answer, None, None]:
    """Call a function for every item.

    Args:
        num_items: The number of items, which are numbered from 0.
        do: Takes an item's number and the worker's reader; called in threads.
        make_reader: Makes the reader of one worker.
        num_workers: Items worked on at the same time, at least 1.

    Returns:
        One answer for each item, in the order in which they finish.

    Raises:
        Exception: An error that ``do`` raised.
    """
    numbers = iter(range(num_items))
    lock, stop = threading.Lock(), threading.Event()
    found: queue.Queue[Answer | Exception] = queue.Queue(maxsize=4 * num_workers)

    def work(reader: ClipReader) -> None:
        while not stop.is_set():
            with lock:
                index = next(numbers, None)
            if index is None:
                return
            try:
                found.put(do(index, reader))
            except Exception as error:  # raised again in the main thread
                found.put(error)
                return

    with ExitStack() as stack:
        readers = [stack.enter_context(make_reader()) for _ in range(num_workers)]
        threads = [threading.Thread(target=work, args=(r,), daemon=True) for r in readers]
        try:
            for thread in threads:
                thread.start()
            for _ in range(num_items):
                answer = found.get()
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        finally:  # end the children that the workers wait for, then the workers
            stop.set()
            while any(thread.is_alive() for thread in threads):
                for reader in readers:
                    reader.abort()
                with suppress(queue.Empty):  # make room for an answer that a worker is about to put
                    found.get(timeout=0.05)
