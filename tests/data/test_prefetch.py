"""The prefetcher keeps order, passes on errors, counts its waits and ends."""

import threading
import time

import pytest

from llmjax.data.prefetch import Prefetch


def num_threads():
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize("threads", [1, 4])
def test_steps_come_in_order_and_placed(threads):
    def batch(step):
        time.sleep(0.002 * (step % 3))
        return step

    with Prefetch(batch, 5, place=lambda b: -b, num_threads=threads) as ahead:
        assert [next(ahead) for _ in range(20)] == [-step for step in range(5, 25)]
        assert num_threads() >= 1
    assert num_threads() == 0


def test_the_state_is_the_next_step():
    with Prefetch(lambda step: step) as ahead:
        assert [next(ahead), next(ahead), next(ahead)] == [0, 1, 2]
        state = ahead.get_state()
        assert state == 3
        first = [next(ahead) for _ in range(4)]
        ahead.set_state(state)
        assert [next(ahead) for _ in range(4)] == first
    with Prefetch(lambda step: step, state) as resumed:
        assert [next(resumed) for _ in range(4)] == first


def test_only_so_many_are_prepared_ahead():
    prepared = []
    with Prefetch(lambda step: prepared.append(step) or step, depth=3) as ahead:
        next(ahead)
        deadline = time.monotonic() + 5
        while len(prepared) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert prepared == [0, 1, 2, 3]


def test_an_error_reaches_the_consumer_at_its_step():
    def batch(step):
        if step == 2:
            raise ValueError("bad shard")
        return step

    with Prefetch(batch) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        with pytest.raises(ValueError, match="bad shard"):
            next(ahead)
    assert num_threads() == 0


def test_waits_are_counted():
    def slow(step):
        time.sleep(0.05)
        return step

    with Prefetch(slow, depth=1) as ahead:
        for _ in range(4):
            next(ahead)
        assert 0.1 < ahead.waited_secs < 2
    with Prefetch(lambda step: step) as ahead:
        for _ in range(4):
            time.sleep(0.02)
            next(ahead)
        assert ahead.waited_secs < 0.05
