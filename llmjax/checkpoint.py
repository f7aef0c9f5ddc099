"""Checkpoints: the whole training state and a JSON page beside it, kept by orbax.

A step is a folder that appears at once, complete, or not at all. Arrays are written
uncompressed: weights hardly shrink, and zstd costs several times the writing. The only
module that knows orbax, which takes two seconds to import and is so left to first use.
"""

import contextlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import jax

MAX_DIFF_LINES = 20


class CheckpointError(ValueError):
    """A step could not be written, or what is stored of it is damaged."""


class Checkpoints:
    """The checkpoints of one run, written in the background: close it, or use `with`.

    Opening makes the folder and clears what an interrupted save left behind. The newest
    `max_to_keep` steps are kept, and every multiple of `keep_every_steps` besides. A
    save that fails, or takes longer than `timeout_secs`, raises CheckpointError at the
    next call of any method.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        max_to_keep: int = 3,
        keep_every_steps: int | None = None,
        timeout_secs: int = 600,
    ):
        self.directory = _writable(_local(directory))
        kept = [_orbax().checkpoint_managers.LatestN(max_to_keep)]
        if keep_every_steps:
            kept.append(_orbax().checkpoint_managers.EveryNSteps(keep_every_steps))
        self._options = dict(
            preservation_policy=_orbax().checkpoint_managers.AnyPreservationPolicy(
                kept
            ),
            async_options=_orbax().AsyncOptions(timeout_secs=timeout_secs),
        )
        _clear_leftovers(self.directory)
        self._manager = _manager(self.directory, **self._options)
        self._saving = None

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        """Starts writing `state`, a pytree of arrays, and `meta`, plain JSON.

        Returns as soon as the arrays may be donated. False, and nothing is done, when
        that step is already stored.
        """
        if step in self.steps():
            return False
        _clear_leftovers(self.directory)
        args = _orbax().args
        meta = json.loads(json.dumps(meta))  # a copy: it is written later, in a thread
        items = dict(state=args.PyTreeSave(state), meta=args.JsonSave(meta))
        self._saving = step
        with explained(f"step {step} was not saved in {self.directory}"):
            self._manager.save(step, args=args.Composite(**items), force=True)
        return True

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict]:
        """The state and the JSON page of `step`, by default the newest.

        `abstract_state` is a tree of ShapeDtypeStruct whose shardings say where each
        array goes. Nothing is read unless every name, shape and dtype fits: otherwise
        ValueError lists the differences. FileNotFoundError when there is no such step.
        """
        self.wait()
        step = _pick_step(self._manager, step)
        meta = _read_meta(self._manager, step)
        return _read_state(self._manager, step, abstract_state), meta

    def steps(self) -> list[int]:
        """The steps stored, in ascending order."""
        self.wait()
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest step stored; None without one."""
        return max(self.steps(), default=None)

    def wait(self) -> None:
        """Returns when the save that is under way has ended."""
        try:
            with explained(f"step {self._saving} was not saved in {self.directory}"):
                self._manager.wait_until_finished()
        except CheckpointError:
            # orbax has lost count of what is on disk.
            self._manager = _manager(self.directory, **self._options)
            raise

    def close(self) -> None:
        """Waits, then ends the background threads."""
        self.wait()
        self._manager.close()
        _clear_leftovers(self.directory)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def read_params(
    directory: str | os.PathLike,
    abstract_params: Any,
    step: int | None = None,
    *,
    part: str = "",
) -> Any:
    """Only the parameters of a stored state, as strict as `Checkpoints.restore`.

    part: which of several models', by its name among the parameters; empty: all.
    Leaves the folder as it is, so that a run may be writing there.
    """
    with _reader(directory) as manager:
        abstract = {"params": {part: abstract_params} if part else abstract_params}
        root = f"params/{part}/" if part else "params/"
        restored = _read_state(manager, _pick_step(manager, step), abstract, root=root)
        return restored["params"][part] if part else restored["params"]


def read_meta(directory: str | os.PathLike, step: int | None = None) -> dict:
    """Only the JSON page of a stored state."""
    with _reader(directory) as manager:
        return _read_meta(manager, _pick_step(manager, step))


def array_folder(
    directory: str | os.PathLike, step: int | None = None
) -> tuple[pathlib.Path, dict[str, tuple]]:
    """Where the arrays of a stored state are, and {path: (shape, dtype)} of them."""
    with _reader(directory) as manager:
        step = _pick_step(manager, step)
        with _damage_explained(manager, step):
            types = _types(manager.item_metadata(step).state.tree, keys_as_data=True)
        return manager.directory / str(step) / "state", types


def compare_trees(stored: Mapping, expected: Mapping) -> list[str]:
    """One line per difference of two {name: (shape, dtype)}."""
    lines = []
    for name in sorted(stored.keys() | expected.keys()):
        have, want = stored.get(name), expected.get(name)
        if have is None:
            lines.append(f"missing     {name}: expected {_typed(*want)}")
        elif want is None:
            lines.append(f"unexpected  {name}: stored {_typed(*have)}")
        elif have != want:
            kind = "shape     " if have[0] != want[0] else "dtype     "
            types = f"stored {_typed(*have)}, expected {_typed(*want)}"
            lines.append(f"{kind}  {name}: {types}")
    return lines


def compare_config(saved: Mapping, current: Mapping) -> list[str]:
    """One line per differing entry of two nested dicts: `model.width: 64 -> 128`."""
    old, new = _dotted(saved), _dotted(current)
    return [
        f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def check_config(saved: Mapping, current: Mapping) -> None:
    """Raises ValueError, with the differences, unless both configs are the same."""
    if lines := compare_config(saved, current):
        raise ValueError(
            "the config differs from the one this run was started with; pass "
            f"--allow_config_change to go on all the same{_listed(lines)}"
        )


def _pick_step(manager, step: int | None) -> int:
    steps = sorted(manager.all_steps())
    if not steps:
        raise FileNotFoundError(f"no checkpoint in {manager.directory}")
    if step is not None and step not in steps:
        stored = ", ".join(map(str, steps))
        raise FileNotFoundError(f"no step {step} in {manager.directory}, only {stored}")
    return steps[-1] if step is None else step


def _read_state(manager, step: int, abstract, *, root: str = ""):
    """The arrays of a step; root: of those alone whose names begin so."""
    orbax = _orbax()
    with _damage_explained(manager, step):
        metadata = manager.item_metadata(step).state
        if metadata is None:
            raise FileNotFoundError("state/_METADATA is missing")
        stored = _types(metadata.tree, keys_as_data=True)
    stored = {name: leaf for name, leaf in stored.items() if name.startswith(root)}
    _check_fit(manager, step, stored, _types(abstract, keys_as_data=True))
    target = jax.tree.map(_placed, abstract)
    args = orbax.args.PyTreeRestore(
        item=target,
        restore_args=orbax.checkpoint_utils.construct_restore_args(target),
        partial_restore=bool(root),
    )
    with _damage_explained(manager, step):
        restored = manager.restore(step, args=orbax.args.Composite(state=args)).state
    # Once more: the metadata does not tell which kind of random key the data is of.
    _check_fit(manager, step, _types(restored), _types(abstract))
    return restored


def _read_meta(manager, step: int) -> dict:
    args = _orbax().args.Composite(meta=_orbax().args.JsonRestore())
    with _damage_explained(manager, step):
        return manager.restore(step, args=args).meta


def _check_fit(manager, step: int, stored: Mapping, expected: Mapping) -> None:
    if lines := compare_trees(stored, expected):
        raise ValueError(
            f"step {step} in {manager.directory} does not fit this model or optimizer"
            f"{_listed(lines)}"
        )


def _types(tree, *, keys_as_data: bool = False) -> dict[str, tuple]:
    """{name: (shape, dtype)} of a tree's leaves."""
    types = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if keys_as_data and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        types[name] = (tuple(leaf.shape), str(leaf.dtype))
    return types


def _typed(shape: tuple[int, ...], dtype: str) -> str:
    return f"{dtype}{list(shape)}"


def _placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The leaf with a sharding: where none is asked for, the first local device."""
    device = jax.local_devices()[0]
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(device)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _dotted(tree: Mapping, prefix: str = "") -> dict[str, str]:
    """{dotted key: JSON of the value}; a list is one value, and equals a tuple."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat


def _listed(lines: list[str]) -> str:
    """The lines, indented below a message; a long list is cut."""
    shown = lines[:MAX_DIFF_LINES]
    if len(lines) > len(shown):
        shown.append(f"... and {len(lines) - len(shown)} more")
    return "".join(f"\n  {line}" for line in shown)


def _local(directory: str | os.PathLike) -> pathlib.Path:
    if "://" in str(directory):
        raise ValueError(f"{directory}: checkpoints are kept in local folders only")
    return pathlib.Path(directory).absolute()


def _writable(directory: pathlib.Path) -> pathlib.Path:
    """The folder, made if need be; PermissionError now, not at the first save."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; checkpoints need a folder")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        reason = error.strerror
        raise PermissionError(f"cannot write into {directory}: {reason}") from error
    return directory


def _clear_leftovers(directory: pathlib.Path) -> None:
    """Removes half-written steps; to be called while no save is under way.

    What a failed save still writes from its threads is removed the next time.
    """
    if jax.process_index() == 0:
        for leftover in directory.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _reader(directory: str | os.PathLike):
    """A manager that writes, cleans and creates nothing."""
    directory = _local(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"no checkpoint in {directory}: no such folder")
    with contextlib.closing(_manager(directory, read_only=True)) as manager:
        yield manager


def _manager(directory: pathlib.Path, **options):
    orbax = _orbax()
    return orbax.CheckpointManager(
        directory,
        options=orbax.CheckpointManagerOptions(**options),
        item_handlers={
            "state": orbax.PyTreeCheckpointHandler(use_compression=False),
            "meta": orbax.JsonCheckpointHandler(),
        },
    )


def _orbax():
    """The library. It logs what it also raises, traceback and all: not wanted twice."""
    import orbax.checkpoint

    logging.getLogger("absl").addFilter(_not_from_orbax)
    return orbax.checkpoint


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _damage_explained(manager, step: int):
    return explained(
        f"step {step} in {manager.directory} is damaged; move "
        f"{manager.directory / str(step)} away to go on from the step before"
    )


@contextlib.contextmanager
def explained(message: str):
    """Any exception inside becomes a CheckpointError of one line.

    Over a damaged file orbax raises KeyError, JSONDecodeError, plain Exception...
    """
    try:
        yield
    except Exception as error:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:200]
        raise CheckpointError(
            f"{message} ({type(cause).__name__}: {reason})"
        ) from error
