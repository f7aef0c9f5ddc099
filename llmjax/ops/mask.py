"""The mask algebra: who may attend to whom, as one value that any kernel can read."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "query_index_BT", "key_index_BS", "query_segment_BT", "key_segment_BS",
        "prefix_B",
    ],
    meta_fields=["causal", "window"],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Mask:
    """A conjunction of conditions on (query, key); the empty one lets all see all.

    causal: a key must not come after the query, unless it lies in the prefix.
    window: the key is less than `window` positions away (backwards only when causal).
    segments: query and key belong to the same document; segment 0 is padding.
    prefix_B: keys before it are seen by all queries of the row (prefix-LM).
    indices: where queries and keys stand in the row; None means 0, 1, 2, ..., which
      lets a kernel skip blocks at compile time.
    """

    causal: bool = False
    window: int | None = None
    query_index_BT: jax.Array | None = None
    key_index_BS: jax.Array | None = None
    query_segment_BT: jax.Array | None = None
    key_segment_BS: jax.Array | None = None
    prefix_B: jax.Array | None = None

    def is_static(self) -> bool:
        """True if causality and window are known when compiling."""
        return (
            self.query_index_BT is None
            and self.key_index_BS is None
            and self.prefix_B is None
        )

    def with_window(self, window: int | None) -> "Mask":
        """This mask and a sliding window, which a single layer may have."""
        return self if window is None else dataclasses.replace(self, window=window)

    def key_range(self, start: int, stop: int, num_keys: int) -> tuple[int, int]:
        """The keys that queries start..stop - 1 can see at most, half-open."""
        low, high = 0, num_keys
        if self.is_static() and self.causal:
            high = min(stop, num_keys)
        if self.is_static() and self.window is not None:
            low = max(0, start - self.window + 1)
            high = min(high, stop + self.window - 1)
        return low, high

    def dense(self, queries: slice, keys: slice) -> jax.Array | None:
        """bool [B or 1, queries, keys], True where seen; None if all see all."""
        conditions = [c for c in self._conditions(queries, keys) if c is not None]
        if not conditions:
            return None
        seen = conditions[0]
        for condition in conditions[1:]:
            seen = seen & condition
        return seen

    def _conditions(self, queries: slice, keys: slice):
        distance = self._distance(queries, keys)
        if self.causal:
            seen = distance >= 0
            if self.prefix_B is not None:
                in_prefix = (
                    self._index(self.key_index_BS, keys) < self.prefix_B[:, None]
                )
                seen = seen | in_prefix[:, None, :]
            yield seen
        if self.window is not None:
            yield jnp.abs(distance) < self.window
        if self.key_segment_BS is not None:
            key_segment = self.key_segment_BS[:, None, keys]
            yield self.query_segment_BT[:, queries, None] == key_segment

    def _distance(self, queries: slice, keys: slice) -> jax.Array:
        """How far each key lies before the query: [B or 1, queries, keys]."""
        query_index = self._index(self.query_index_BT, queries)
        key_index = self._index(self.key_index_BS, keys)
        return query_index[:, :, None] - key_index[:, None, :]

    @staticmethod
    def _index(index, part: slice) -> jax.Array:
        if index is None:
            return jnp.arange(part.start, part.stop)[None]
        return index[:, part]
