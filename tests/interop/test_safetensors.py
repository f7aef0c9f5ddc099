"""The safetensors format against the reference package, and hostile files."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from llmjax.interop import safetensors as ours

ARRAYS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.array([1.5, -2], np.float16),
    "brain": np.array([[0.5]], ml_dtypes.bfloat16),
    "mask": np.array([True, False, True]),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 5), np.float32),
}


def write(path, header: bytes | dict, data: bytes = b""):
    if isinstance(header, dict):
        header = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def entry(first: int, last: int, shape=(1,), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def test_reads_what_the_reference_writes(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    tensors = ours.open_file(path)
    assert tensors.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name].read(), array)


def test_writes_the_same_bytes_as_the_reference(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "a", metadata={"format": "pt"})
    specs = {name: (array.shape, array.dtype) for name, array in ARRAYS.items()}
    ours.write_file(tmp_path / "b", specs, lambda name: ARRAYS[name])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyError):
        ours.write_file(tmp_path / "a", {"w": ((3,), np.dtype("f4"))}, {}.__getitem__)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "header is bad"),
        (b"[]", "not a JSON object"),
        (b"\xff\xfe{}", "header is bad"),
        (b"[" * 100_000, "header is bad"),
        (b'{"a":1,"a":2}', "duplicate name 'a'"),
        ({"a": 1}, "'a' has no sound data_offsets"),
        ({"a": entry(4, 0)}, "'a' has no sound data_offsets"),
        ({"a": entry(0, 8.0)}, "'a' has no sound data_offsets"),
        ({"a": entry(0, 4, [-1])}, "'a' has no sound shape"),
        ({"a": entry(0, 4, [True])}, "'a' has no sound shape"),
        ({"a": entry(0, 4, [1] * 99)}, "'a' has no sound shape"),
        ({"a": entry(0, 4, [2**62, 4])}, "does not fill"),
        ({"a": entry(0, 8)}, "does not fill"),
        ({"a": entry(0, 4, dtype="F31")}, "unknown dtype 'F31'"),
        ({"a": entry(0, 4), "b": entry(0, 4)}, "overlaps another or leaves a hole"),
        ({"a": entry(0, 4), "b": entry(5, 9)}, "overlaps another or leaves a hole"),
        ({"a": entry(4, 8)}, "overlaps another or leaves a hole"),
        ({"a": entry(0, 4)}, "4 bytes belong to no tensor"),
        ({"a": entry(0, 4), "b": entry(4, 12, [2])}, "truncated: tensor 'b' ends"),
    ],
)
def test_bad_header_is_refused(tmp_path, header, message):
    path = write(tmp_path / "bad.safetensors", header, bytes(8))
    with pytest.raises(ValueError, match=message) as caught:
        ours.open_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 8, b"\xff" * 100])
def test_no_safetensors_file_at_all(tmp_path, content):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ValueError, match="not a safetensors file, or truncated"):
        ours.open_file(tmp_path / "bad")


def test_random_damage_is_a_value_error_or_harmless(tmp_path):
    path, rng = tmp_path / "a", np.random.default_rng(0)
    safetensors.numpy.save_file(ARRAYS, path)
    sound = path.read_bytes()
    num_refused = 0
    for _ in range(600):
        damaged = bytearray(sound)
        for place in rng.integers(0, len(sound), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(1, len(sound) + 1)])
        try:
            for tensor in ours.open_file(path).values():
                tensor.read()
        except ValueError:
            num_refused += 1
    assert num_refused > 400
