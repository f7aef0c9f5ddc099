"""tools/kv_cache.py as a user runs it: bytes by hand, and the same logits both ways."""

import json

import pytest

from tests import programs

# Of the preset tiny: keys and values (2) of 2 layers, for one head of 16 values.
NUM_VALUES = 2 * 2 * 16


def run(*args):
    return programs.run("tools/kv_cache.py", "--model=tiny", *args)


@pytest.fixture(scope="module", name="done")
def _done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kv_cache")
    code, out, err = run("--lengths=40,8", "--window=16", f"--workdir={folder}")
    assert code == 0, err
    return folder, out, json.loads((folder / "summary.json").read_text())


def test_bytes_are_those_counted_by_hand(done):
    _, _, summary = done
    found = {(p["attention"], p["length"]): p for p in summary["points"]}
    tokens_and_heads = {
        ("multi-head", 8): 8 * 4,
        ("multi-head", 40): 40 * 4,
        ("grouped, 2 of 4", 8): 8 * 2,
        ("grouped, 2 of 4", 40): 40 * 2,
        ("multi-query", 8): 8,
        ("multi-query", 40): 40,
        ("window of 16", 8): 8 * 4,
        ("window of 16", 40): 16 * 4,
    }
    assert list(found) == list(tokens_and_heads)
    for key, count in tokens_and_heads.items():
        assert found[key]["cache_bytes"] == count * NUM_VALUES * 4, key
        assert found[key]["formula_bytes"] == found[key]["cache_bytes"]


def test_both_ways_compute_the_same(done):
    for point in done[2]["points"]:
        assert point["logits_gap"] < 1e-5, point
        assert point["secs_without"] > 0 and point["secs_with"] > 0


def test_what_it_writes(done):
    folder, out, summary = done
    assert {path.name for path in folder.iterdir()} == {"kv_cache.png", "summary.json"}
    assert (folder / "kv_cache.png").read_bytes().startswith(b"\x89PNG")
    assert (summary["model"]["width"], summary["batch_size"]) == (64, 1)
    rows = [line for line in out.splitlines() if line.startswith((" multi", " window"))]
    assert len(rows) == 6  # and two that are grouped
    assert out.count("grouped, 2 of 4") == 2 and "times faster" in out


def test_an_int8_cache_keeps_a_scale_for_each_vector(tmp_path):
    args = ("--lengths=8", "--batch_size=3", "--cache_dtype=int8")
    code, _, err = run(*args, f"--workdir={tmp_path}")
    assert code == 0, err
    points = json.loads((tmp_path / "summary.json").read_text())["points"]
    num_bytes = 3 * 8 * 4 * (NUM_VALUES + 2 * 2 * 4)
    assert points[0]["cache_bytes"] == points[0]["formula_bytes"] == num_bytes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--lengths=8,x"], "--lengths=8,x: numbers from 2 on"),
        (["--kv_heads=3"], "num_kv_heads=3 must divide num_heads=4"),
        (["--model=t5_small"], "only a decoder alone"),
    ],
)
def test_bad_input_is_one_line(args, message, tmp_path):
    code, _, err = run(*args, f"--workdir={tmp_path / 'out'}")
    assert code == 1 and message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()
