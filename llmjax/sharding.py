"""Arrays are sharded by the letters of their names: one rule table, no annotations.

A mesh has six named axes. `PARAMS` says which axis each letter of a parameter's name is
split over, `ACTIVATIONS` the same for intermediate values; they differ because a
parameter's D is split over `fsdp`, where an activation's B already is.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llmjax import dims

AXES = ("data", "fsdp", "tensor", "sequence", "expert", "pipeline")
BATCH_AXES = ("data", "fsdp", "expert")

_WHOLE = dict.fromkeys(dims.ALPHABET)
PARAMS = _WHOLE | dict(
    L="pipeline",
    D="fsdp",
    N="tensor",
    K="tensor",
    F="tensor",
    V="tensor",
    E="expert",
)
ACTIVATIONS = _WHOLE | dict(
    B=BATCH_AXES, T="sequence", N="tensor", K="tensor", F="tensor", V="tensor",
    E="expert",
)  # fmt: skip


def make_mesh(spec: str = "", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh from e.g. "fsdp=4,tensor=2"; a size of -1 takes the devices that are left.

    An empty spec is "data=-1". Raises ValueError on an unknown axis, or when the sizes
    do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _parse_mesh(spec or "data=-1")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if -1 in sizes.values():
        if len(devices) % fixed:
            raise ValueError(
                f"--mesh={spec}: {len(devices)} devices cannot be divided by {fixed}; "
                "choose sizes whose product divides their number"
            )
        sizes = {a: len(devices) // fixed if s == -1 else s for a, s in sizes.items()}
    elif fixed != len(devices):
        advice = (
            "lower a size, or on a CPU add --cpu_devices"
            if fixed > len(devices)
            else "all must be used; add data=-1"
        )
        raise ValueError(
            f"--mesh={spec} needs {fixed} devices but there are {len(devices)}: "
            f"{advice}"
        )
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    return jax.make_mesh(
        shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )


def _parse_mesh(spec: str) -> dict[str, int]:
    sizes = {}
    for part in spec.replace(" ", "").split(","):
        axis, _, size = part.partition("=")
        if axis not in AXES:
            raise ValueError(
                f"--mesh={spec}: unknown axis {axis!r}; known: {', '.join(AXES)}"
            )
        if axis in sizes:
            raise ValueError(f"--mesh={spec}: axis {axis!r} is given twice")
        if not size.lstrip("-").isdigit() or not (int(size) > 0 or int(size) == -1):
            raise ValueError(
                f"--mesh={spec}: the size of {axis!r} must be a positive number or -1"
            )
        sizes[axis] = int(size)
    if list(sizes.values()).count(-1) > 1:
        raise ValueError(f"--mesh={spec}: only one size may be -1")
    return sizes


def _split(letters: str, shape, rules, mesh) -> P:
    """The spec of `shape`; a dimension that its axes do not divide stays whole."""
    spec, used = [], set()
    for letter, size in zip(letters, shape, strict=True):
        axes = rules[letter] or ()
        axes = (axes,) if isinstance(axes, str) else axes
        axes = tuple(axis for axis in axes if mesh.shape.get(axis, 1) > 1)
        if not axes or size % math.prod(mesh.shape[axis] for axis in axes):
            spec.append(None)
            continue
        if used & set(axes):
            raise ValueError(f"two dimensions of {letters} lie on mesh axis {axes}")
        used |= set(axes)
        spec.append(axes if len(axes) > 1 else axes[0])
    return P(*spec)


def param_spec(path: str, shape: Sequence[int], mesh: Mesh) -> P:
    """The spec of the parameter at `path` ("blocks/attention/q_DNH"), from its name.

    A rank of one more than the name has letters means a leading L: a stacked block.
    Vectors stay whole: they are small, and a gather of each would cost more than it
    saves. Raises ValueError, with the path, on an unknown letter or another rank.
    """
    try:
        letters = dims.parse(path.rpartition("/")[2])
    except ValueError as error:
        raise ValueError(f"parameter {path}: {error}") from None
    if len(shape) == len(letters) + 1:
        letters = "L" + letters
    if len(shape) != len(letters):
        raise ValueError(f"parameter {path} is named {letters} but has shape {shape}")
    if len(letters.removeprefix("L")) == 1:
        letters, shape = letters[:-1], shape[:-1]  # the trailing dimension stays whole
    return _split(letters, shape, PARAMS, mesh)


def path_name(path: tuple) -> str:
    """A key path of `jax.tree_util` as "blocks/attention/q_DNH"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_shardings(params: Any, mesh: Mesh) -> Any:
    """The tree of NamedSharding of a parameter tree (arrays or ShapeDtypeStructs)."""

    def sharding(path, leaf):
        return NamedSharding(mesh, param_spec(path_name(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, params)


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Shardings of a whole training state: what has a parameter's name follows it.

    Optimizer moments and averages keep their parameter's last key, so they get its
    spec; counters, keys and factored moments, which do not fit a name, stay whole.
    """

    def sharding(path, leaf):
        try:
            spec = param_spec(path_name(path), leaf.shape, mesh)
        except ValueError:
            spec = P()
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, state)


def batch_sharding(mesh: Mesh, num_axes: int = 2) -> NamedSharding:
    """The sharding of a [B, T] array of a batch; with one axis, of a [B] array."""
    return NamedSharding(mesh, P(*(BATCH_AXES, "sequence")[:num_axes]))


def placer(mesh: Mesh) -> Callable[[Any], Any]:
    """place(batch): this process's rows of each array become part of all rows.

    An array is [B, T], or has the letters that its name ends in: "rank_BA".
    """

    def place_rows(name: str, rows: Any) -> jax.Array:
        letters = name.rpartition("_")[2]
        letters = letters if letters.isupper() else "BT"[: rows.ndim]
        sharding = NamedSharding(mesh, P(*map(ACTIVATIONS.get, letters)))
        return jax.make_array_from_process_local_data(sharding, rows)

    def place(batch: Any) -> Any:
        return {name: place_rows(name, rows) for name, rows in batch.items()}

    return place


def check_batch(batch_size: int, num_tokens: int, mesh: Mesh) -> None:
    """Raises ValueError unless the mesh divides a [B, T] batch."""
    rows = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % rows:
        raise ValueError(
            f"the batch of {batch_size} rows cannot be divided over {rows} "
            f"(data * fsdp * expert of the mesh); make it a multiple of {rows}"
        )
    if num_tokens % mesh.shape["sequence"]:
        raise ValueError(
            f"rows of {num_tokens} tokens cannot be divided over "
            f"sequence={mesh.shape['sequence']}"
        )


def constrain(x: jax.Array, letters: str) -> jax.Array:
    """Tells the compiler how the activation `x`, with axes `letters`, is laid out.

    Uses the mesh of `jax.set_mesh`; does nothing without one, or outside `jit`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or not isinstance(x, jax.core.Tracer):
        return x
    spec = _split(letters, x.shape, ACTIVATIONS, mesh)
    return jax.lax.with_sharding_constraint(x, spec)


def replicate(x: jax.Array) -> jax.Array:
    """Under `jit`: all of `x` on every device, so that each process can read it."""
    return constrain(x, "S" * x.ndim) if x.ndim else x


def table(params: Any, mesh: Mesh) -> list[tuple[str, str, str, int]]:
    """One row a parameter: path, shape, spec, bytes on one device."""
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path_name(path)
        spec = param_spec(name, leaf.shape, mesh)
        local = NamedSharding(mesh, spec).shard_shape(leaf.shape)
        split = [str(axes) if axes else "-" for axes in spec]
        split += ["-"] * (len(leaf.shape) - len(split))
        num_bytes = math.prod(local) * leaf.dtype.itemsize
        rows.append((name, "x".join(map(str, leaf.shape)), " ".join(split), num_bytes))
    return rows
