"""LoRA: a few small matrices are trained beside the frozen ones of a base.

Adapters are a tree of their own with the base's paths: beside
"blocks/attention/q_DNH" they have "blocks/attention/q_a_DR" and ".../q_b_RNH" (see
`ops.adapter`), so letters give them shapes, einsums and shardings as everywhere. `join`
puts the two trees together into parameters that a model takes as any others.
LoRA: Hu et al. 2021; DoRA: Liu et al. 2024; rsLoRA: Kalajdzievski 2023.
"""

import dataclasses
import fnmatch
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from llmjax import dims
from llmjax.config import field
from llmjax.ops import adapter, linear, quant
from llmjax.ops.adapter import Adapted, Dropout
from llmjax.types import Batch, Key, Params

MATRICES = (*linear.MATRICES, "head_DO", "embed_VD")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which matrices get adapters, and of what kind."""

    rank: int = field(16, "R: inner width of an adapter")
    alpha: float = field(32.0, "adapters are multiplied by alpha / rank")
    targets: tuple[str, ...] = field(
        ("attention/*", "cross/*", "mlp/*"),
        "what is adapted, e.g. attention/q, mlp/*, embed, head; * is any name",
    )
    scaling: Literal["alpha/r", "alpha/sqrt(r)"] = field(
        "alpha/r", "alpha/sqrt(r) is rsLoRA's, which larger ranks need"
    )
    dropout: float = field(0.0, "share of what an adapter reads that is zeroed")
    dora: bool = field(False, "DoRA: also learn the length of each output's weights")
    bias: Literal["none", "lora_only", "all"] = field(
        "none", "also train the biases of the adapted matrices, or all there are"
    )
    base: Literal["float32", "bfloat16", "int8", "nf4"] = field(
        "float32", "what the frozen matrices are held in; nf4 is QLoRA's"
    )
    share_qkv: bool = field(
        False, "q, k and v share what they read, as where they are one matrix (GPT-2)"
    )
    whole: tuple[str, ...] = field(
        (), "matrices that are trained themselves, beside the adapters of others"
    )
    MIN_RANK: ClassVar[int] = 1

    def __post_init__(self):
        if self.rank < self.MIN_RANK:
            raise ValueError(f"rank={self.rank} must be at least {self.MIN_RANK}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")

    @property
    def scale(self) -> float:
        """What the product of an adapter's matrices is multiplied by."""
        root = self.scaling == "alpha/sqrt(r)"
        return self.alpha / (math.sqrt(self.rank) if root else self.rank)

    @classmethod
    def from_json(cls, fields: dict) -> "LoraConfig":
        """The config that `dataclasses.asdict` wrote, read back from JSON."""
        lists = {k: tuple(v) for k, v in fields.items() if isinstance(v, list)}
        return cls(**fields | lists)


@dataclasses.dataclass(frozen=True)
class OptionalLora(LoraConfig):
    """LoRA where a rank is given; otherwise the model itself is trained."""

    rank: int = field(0, "R: inner width of an adapter; 0: all weights are trained")
    MIN_RANK: ClassVar[int] = 0


def init(cfg: LoraConfig, base: Params, key: Key) -> Params:
    """Adapters that change nothing yet: of each pair one matrix is zero, as in peft.

    Raises ValueError, with what there is, where a target matches no matrix.
    """
    found = {}
    for path, node, name in _targets(cfg, base):
        key_of = jax.random.fold_in(key, zlib.crc32(f"{path}/{name}".encode()))
        made = _init_one(cfg, name, _read(node, name), key_of)
        bias = f"{_stem(name)}_bias_{dims.split_matrix(name)[1]}"
        if cfg.bias == "lora_only" and bias in node:
            made[bias] = jnp.array(node[bias], jnp.float32)
        node_at(found, path).update(made)
    if cfg.share_qkv:
        for node, _ in nodes(found):
            _share(node)
    for path, node, name in _find(cfg.whole, base):
        if _read(node, name) is not node[name]:
            raise ValueError(
                f"whole: {path}/{name} is held in fewer bits, and cannot be trained"
            )
        node_at(found, path)[name] = jnp.array(node[name], jnp.float32)
    if cfg.bias == "all":
        for node, path in nodes(base):
            for name in [name for name in node if "bias" in name]:
                node_at(found, path)[name] = jnp.array(node[name], jnp.float32)
    return found


def _init_one(cfg: LoraConfig, name: str, weight: Any, key: Key) -> dict:
    names = adapter.names(name)
    inputs, outputs = dims.split_matrix(name)
    shape = jax.tree.leaves(weight)[0].shape  # all forms have it first
    split = len(shape) - len(outputs)
    stacked = shape[: split - len(inputs)]
    a_shape = (*shape[:split], cfg.rank)
    b_shape = (*stacked, cfg.rank, *shape[split:])
    if inputs == "V":  # rows are taken, not multiplied
        a, b = jnp.zeros(a_shape), jax.random.normal(key, b_shape)
    else:
        bound = 1 / math.sqrt(math.prod(shape[len(stacked) : split]))
        a = jax.random.uniform(key, a_shape, minval=-bound, maxval=bound)
        b = jnp.zeros(b_shape)
    made = {names.a: a, names.b: b}
    if cfg.dora:
        made[names.magnitude] = adapter.lengths(name, weight)
    return made


def _share(node: dict) -> None:
    """Keeps what q reads as what all three read."""
    if not {"q_a_DR", "k_a_DR", "v_a_DR"} <= node.keys():
        return
    node["qkv_a_DR"] = node.pop("q_a_DR")
    del node["k_a_DR"], node["v_a_DR"]


def count(adapters: Params) -> int:
    """How many numbers are trained."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(adapters))


def join(
    base: Params, adapters: Params, cfg: LoraConfig, key: Key | None = None
) -> Params:
    """The parameters of the adapted model; nothing of the base is copied.

    key: for dropout, each layer its own; None where nothing is dropped.
    """
    return union(base, ready(cfg, adapters, key))


def beside(loss_fn: Callable, cfg: LoraConfig) -> Callable:
    """loss(adapters, batch, key, base): what `loss_fn` is of the two joined.

    It makes any loss one of adapters, for `make_step(..., frozen=base)`.
    """

    def loss(adapters: Params, batch: Batch, key: Key | None, base: Params):
        return loss_fn(join(base, adapters, cfg, key), batch, key)

    return loss


def merge(base: Params, adapters: Params, cfg: LoraConfig) -> Params:
    """The parameters of a plain model that computes what the adapted one does.

    An adapted matrix of a base in fewer bits is float32 there. Raises ValueError for an
    adapted embedding to which the head may be tied: the head would change with it.
    """
    if "embed_a_VR" in adapters.get("embed", {}) and "head_DV" not in base.get(
        "head", {}
    ):
        raise ValueError(
            "the adapters of embed/embed_VD cannot be merged: the head may be the same "
            "matrix, and is not adapted; give it one of its own, `untied`"
        )
    return _merge(base, ready(cfg, adapters))


def untied(base: Params) -> Params:
    """The base with a head of its own, equal to the embedding, for a config that has
    `tied` no more."""
    table_VD = quant.restore("embed_VD", _read(base["embed"], "embed_VD"))
    return {**base, "head": {**base.get("head", {}), "head_DV": table_VD.T}}


def _merge(base: Params, beside: Params) -> Params:
    merged = {}
    for name, leaf in base.items():
        if isinstance(leaf, Mapping):
            merged[name] = _merge(leaf, beside.get(name, {}))
        else:
            merged[name] = beside.get(name, leaf)
    for name in [name for name in base if name in MATRICES]:
        names = adapter.names(name)
        if names.a not in beside:
            continue
        weight = _read(base, name)
        parts = beside[names.a], beside[names.b], beside.get(names.magnitude)
        whole = adapter.merge(name, Adapted(weight, *parts))
        if not isinstance(weight, quant.Int8 | quant.NF4):
            whole = whole.astype(weight.dtype)
        merged[name] = whole
        merged.pop(quant.scale_name(name), None)
        merged.pop(quant.block_name(name), None)
    return merged


def check(base: Params, adapters: Params) -> None:
    """Raises ValueError, with path and shapes, unless the adapters are of this base."""
    fitting = {}
    for node, path in nodes(base):
        for name in node:
            fitting |= _fitting(f"{path}/", name, node)
    for node, path in nodes(adapters):
        for name, leaf in node.items():
            if isinstance(leaf, Mapping):
                continue
            own, shape = f"{path}/{name}", tuple(leaf.shape)
            if own not in fitting:
                raise ValueError(f"adapter {own}: the base has no matrix for it")
            wanted = fitting[own]
            if len(wanted) != len(shape) or any(
                size not in ("R", actual)
                for size, actual in zip(wanted, shape, strict=True)
            ):
                sizes = ", ".join(map(str, wanted))
                raise ValueError(
                    f"adapter {own} has shape {shape}; the base calls for ({sizes})"
                )


def _fitting(above: str, name: str, node: Params) -> dict[str, tuple]:
    """{path: shape} of what may stand beside a leaf of the base, or in its place."""
    if isinstance(node[name], Mapping):
        return {}
    shape = tuple(node[name].shape)
    if name not in MATRICES:
        return {above + name: shape}
    names, (_, outputs) = adapter.names(name), dims.split_matrix(name)
    split = len(shape) - len(outputs)
    stacked = shape[: len(shape) - len(dims.parse(name))]
    found = {
        name: shape,
        names.a: (*shape[:split], "R"),
        names.b: (*stacked, "R", *shape[split:]),
        names.magnitude: (*stacked, *shape[split:]),
    }
    if name == "q_DNH":
        found["qkv_a_DR"] = found[names.a]
    return {above + part: sizes for part, sizes in found.items()}


def ready(cfg: LoraConfig, adapters: Params, key: Key | None = None) -> Params:
    """The adapters as a model reads them: scaled, shared ones spelt out, dropout."""
    found = {}
    for node, path in nodes(adapters):
        made = node_at(found, path)
        for name, leaf in node.items():
            if isinstance(leaf, Mapping):
                continue
            if name == "qkv_a_DR":
                made |= {"q_a_DR": leaf, "k_a_DR": leaf, "v_a_DR": leaf}
            elif adapter.is_b(name):
                made[name] = leaf * cfg.scale
            else:
                made[name] = leaf
        if key is not None and cfg.dropout:
            made |= _dropouts(made, cfg.dropout, key, path)
    return found


def _dropouts(node: Params, rate: float, key: Key, path: str) -> Params:
    found = {}
    for name, leaf in node.items():
        if not adapter.is_a(name):
            continue
        own = jax.random.fold_in(key, zlib.crc32(f"{path}/{name}".encode()))
        rates = jnp.float32(rate)
        if leaf.ndim > len(dims.parse(name)):  # a stack: each layer has its own
            own, rates = jax.random.split(own, len(leaf)), jnp.full(len(leaf), rate)
        found[adapter.dropout_name(name)] = Dropout(own, rates)
    return found


def _targets(cfg: LoraConfig, base: Params) -> list[tuple[str, Params, str]]:
    """(path, node, name) of each matrix that is adapted; none that is trained whole."""
    whole = {(path, name) for path, _, name in _find(cfg.whole, base)}
    adapted = _find(cfg.targets, base)
    return [one for one in adapted if (one[0], one[2]) not in whole]


def _find(patterns: Sequence[str], base: Params) -> list[tuple[str, Params, str]]:
    """(path, node, name) of each matrix that a pattern names."""
    known = {
        f"{path}/{_stem(name)}": (path, node, name)
        for node, path in nodes(base)
        for name in node
        if name in MATRICES
    }
    matched = set()
    for pattern in patterns:
        own = [
            name for name in known if fnmatch.fnmatchcase(f"/{name}", f"*/{pattern}")
        ]
        if not own and pattern not in LoraConfig().targets:
            raise ValueError(
                f"targets: {pattern!r} matches no matrix; there are {', '.join(known)}"
            )
        matched.update(own)
    return [one for name, one in known.items() if name in matched]


def _stem(name: str) -> str:
    return name.rpartition("_")[0]


def _read(node: Params, name: str) -> Any:
    """The matrix of that name in a node of the base, in the form it is held in."""
    for kind, scale_name in (
        (quant.Int8, quant.scale_name),
        (quant.NF4, quant.block_name),
    ):
        if scale_name(name) in node:
            return kind(node[name], node[scale_name(name)])
    return node[name]


def nodes(tree: Params, path: str = "") -> Iterator[tuple[Params, str]]:
    """Every dict of the tree, and its path."""
    yield tree, path
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from nodes(value, f"{path}/{name}" if path else name)


def node_at(tree: dict, path: str) -> dict:
    """The dict at that path, made if need be."""
    for part in path.split("/") if path else ():
        tree = tree.setdefault(part, {})
    return tree


def union(base: Params, other: Params) -> Params:
    """All that either has, under the same paths; of a leaf in both, the other's."""
    both = dict(base)
    for name, value in other.items():
        own = base.get(name, {})
        both[name] = union(own, value) if isinstance(value, Mapping) else value
    return both
