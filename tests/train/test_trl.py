"""The loss of fine-tuning is that of TRL's trainer, on packed rows, in parts, sharded.

TRL pads each conversation to a row; here several share one. See tools/golden_sft.py.
"""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from llmjax import load, losses, sharding
from llmjax.data import chat, template
from llmjax.data.chat_rows import ConversationRows, Example
from llmjax.models import transformer
from llmjax.train.state import init_state
from llmjax.train.step import make_step

GOLDEN = Path(__file__).parents[1] / "golden" / "sft"
MASKS = json.loads((GOLDEN / "masks.json").read_text(encoding="utf-8"))
TRL = json.loads((GOLDEN / "losses.json").read_text(encoding="utf-8"))
CONTEXT, NUM_ROWS = 192, 4


@pytest.fixture(name="loaded", scope="module")
def _loaded():
    return load.load(GOLDEN)


@pytest.fixture(name="batches", scope="module")
def _batches(loaded):
    """What TRL read at each step, as this package makes it of the messages."""
    known = {}
    for messages in (one["messages"] for one in MASKS if one["template"] == "chatml"):
        pieces = template.write(
            load.chat_template(GOLDEN), messages, **chat.names(loaded.tokenizer)
        )
        ids, is_trained = chat.encode_pieces(loaded.tokenizer, pieces)
        known[tuple(ids)] = Example(
            "", "", np.array(ids, np.int32), np.array(is_trained)
        )
    batches = []
    for step in TRL["steps"]:
        examples = []
        for ids, labels in (row for part in step for row in rows_of(part)):
            example = known[ids]
            assert labels == [
                index if is_one else -100
                for index, is_one in zip(ids, example.is_trained_T, strict=True)
            ]
            examples.append(example)
        rows = ConversationRows(examples, CONTEXT)
        assert len(rows) < len(examples)  # some do share a row
        batch = rows.rows(np.arange(len(rows)))
        empty = [(0, NUM_ROWS - len(rows)), (0, 0)]
        batches.append({name: np.pad(array, empty) for name, array in batch.items()})
    return batches


def rows_of(part):
    """(ids, labels) of each row without its padding."""
    for ids, labels in zip(part["ids"], part["labels"], strict=True):
        while ids[-1] == 0:  # <|endoftext|>
            ids, labels = ids[:-1], labels[:-1]
        yield tuple(ids), labels


@pytest.mark.parametrize(
    ("spec", "num_devices", "accumulate"), [("", 1, 1), ("", 1, 4), ("fsdp=2", 2, 2)]
)
def test_losses_are_those_of_trl(loaded, batches, spec, num_devices, accumulate):
    """Also after updates: the gradient, too, is of the mean over all trained tokens."""
    counts = [batch["weights"].sum(1) for batch in batches]
    assert all(count.max() > 2 * count.min() for count in counts)
    model, tx = transformer.make(loaded.cfg), optax.sgd(TRL["learning_rate"])
    mesh, found = sharding.make_mesh(spec, jax.devices()[:num_devices]), []
    with jax.set_mesh(mesh):
        state = init_state(model.init, tx, mesh, jax.random.key(0))
        params = jax.device_put(
            loaded.params, jax.tree.map(lambda leaf: leaf.sharding, state.params)
        )
        state = state._replace(params=jax.tree.map(jax.numpy.copy, params))
        loss_fn = partial(losses.next_token, model, chunk_tokens=64)
        step = make_step(loss_fn, tx, state, accumulate=accumulate)
        for batch in batches:
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
            state, metrics = step(state, batch)
            total, count = metrics["loss"]
            found.append(float(total / count))
    np.testing.assert_allclose(found, TRL["losses"], rtol=0, atol=1e-5)
