"""The folder of a run: what is written there, and how a run resumes from it."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from llmjax import checkpoint, distributed, host, sharding
from llmjax.train.state import TrainState, abstract_state, init_state
from llmjax.types import Params

PACKAGES = ("llmjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def begin(run: Any) -> tuple[Path, Mesh]:
    """The folder and the mesh of a run, `run` being what its flags say.

    Call it before anything is put on a device.
    """
    folder = open_workdir(run.workdir)
    host.start(run.cpu_devices)
    distributed.start(run.distributed)
    return folder, sharding.make_mesh(run.mesh)


def open_workdir(path: str) -> Path:
    """The folder, made if need be; ValueError or PermissionError if it cannot be."""
    if "://" in path:
        raise ValueError(f"--workdir={path}: give a local folder")
    workdir = Path(path).expanduser()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"--workdir={path} is a file; name a folder") from None
    except PermissionError:
        raise PermissionError(f"--workdir={path}: no permission to make it") from None
    if not os.access(workdir, os.W_OK):
        raise PermissionError(f"--workdir={path}: no permission to write there")
    return workdir


def write_json(path: Path, value: Any) -> None:
    """Writes `value`, dataclasses too, as JSON; the file appears whole or not."""
    write_text(path, json.dumps(value, indent=2, default=dataclasses.asdict) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes `text`; the file appears whole or not."""
    part = path.with_name(path.name + ".tmp")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def versions() -> dict[str, str]:
    """What the run runs on: Python, packages, devices."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    return found | {"devices": f"{len(devices)} x {devices[0].device_kind}"}


def resume_or_init(
    checkpoints: checkpoint.Checkpoints,
    config: dict[str, Any],
    init: Callable[[jax.Array], Params],
    tx: Any,
    mesh: Mesh,
    run: Any,
    *,
    ema: bool = False,
    init_from: Params | None = None,
    extras: Params | None = None,
) -> TrainState:
    """The newest checkpoint's state, or a fresh one where there is none yet.

    init_from: parameters that a fresh state begins with, in place of drawn ones.
    extras: what a fresh one carries beside; see `TrainState`.
    Raises ValueError, with the differences, when the checkpoint was made under another
    `config` (unless `run.allow_config_change`) or does not fit the state.
    """
    if checkpoints.latest_step() is None:
        key = jax.random.key(run.seed)
        state = init_state(init, tx, mesh, key, ema=ema, extras=extras)
        if init_from is None:
            return state
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state.params)
        params = jax.device_put(init_from, shardings)
        ema_copy = {"ema": jax.tree.map(jax.numpy.copy, params)} if ema else {}
        return state._replace(params=params, extras=state.extras | ema_copy)
    abstract = abstract_state(init, tx, mesh, ema=ema, extras=extras)
    meta = checkpoint.read_meta(checkpoints.directory)
    if not run.allow_config_change:
        checkpoint.check_config(meta["config"], as_json(config))
    return checkpoints.restore(abstract)[0]


def as_json(config: dict[str, Any]) -> dict[str, Any]:
    """The config as it reads back from JSON."""
    return json.loads(json.dumps(config, default=dataclasses.asdict))
