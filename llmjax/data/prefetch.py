"""Prepares batches ahead in threads, so that the training step need not wait."""

import collections
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Prefetch:
    """An iterator over `place(batch(step))` for step, step + 1, ... without end.

    batch: a pure function of the step (`Batches.batch`), so that steps can be prepared
      side by side. place: moves a host batch to the devices.
    depth: batches prepared or in preparation ahead of the consumer.
    waited_secs: how long the consumer has waited so far.

    What the preparation raises, `next` raises at that step. Its whole state is the
    number of the next step: `get_state`, `set_state`.
    """

    def __init__(
        self,
        batch: Callable[[int], Any],
        step: int = 0,
        *,
        place: Callable[[Any], Any] = lambda batch: batch,
        depth: int = 4,
        num_threads: int = 1,
    ):
        self.waited_secs = 0.0
        self._prepare = lambda step: place(batch(step))
        self._depth = depth
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="prefetch")
        self._ahead = collections.deque()
        self.set_state(step)

    def get_state(self) -> int:
        return self._step

    def set_state(self, step: int) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._step = step
        self._fill()

    def _fill(self) -> None:
        while len(self._ahead) < self._depth:
            step = self._step + len(self._ahead)
            self._ahead.append(self._threads.submit(self._prepare, step))

    def __iter__(self):
        return self

    def __next__(self):
        start_secs = time.perf_counter()
        value = self._ahead.popleft().result()
        self.waited_secs += time.perf_counter() - start_secs
        self._step += 1
        self._fill()
        return value

    def close(self) -> None:
        """Ends the threads, after the batches that they are at."""
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
