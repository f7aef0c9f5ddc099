"""PPO, GRPO and DPO as a user runs them, in miniature: they resume, and open again."""

import json
import signal
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from llmjax import checkpoint, load
from llmjax.models import transformer
from tests import programs

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "sft"
REWARDS = """
import os

def letters(prompts, answers):
    assert len(prompts) == len(answers)
    return [answer.count("e") - answer.count("t") for answer in answers]

def broken_later(prompts, answers):
    count = int(open("calls").read()) if os.path.exists("calls") else 0
    open("calls", "w").write(str(count + 1))
    return [float("nan") if count == 2 else 1.0] + [0.0] * (len(answers) - 1)
"""
SMALL = [
    "--rollout.num_prompts=16", "--rollout.max_new_tokens=8", "--data.num_held_out=8",
    "--optim.lr=3e-3", "--save_every=1", f"--init_from={GOLDEN}",
]  # fmt: skip


@pytest.fixture(name="place", scope="module")
def _place(tmp_path_factory):
    """A folder with prompts, pairs and rewards."""
    folder = tmp_path_factory.mktemp("ppo")
    (folder / "own_rewards.py").write_text(REWARDS)
    lines = [json.dumps({"prompt": f"Say {number}"}) for number in range(40)]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    pairs = [
        json.dumps({"prompt": f"Say {n}", "chosen": "eee", "rejected": f"t {n}"})
        for n in range(40)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(pairs) + "\n")
    return folder


def start(place, name, *args):
    return programs.start(f"experiments/{name}.py", *args, place=place)


def run(place, name, *args):
    """(exit code, output, errors)."""
    return programs.run(f"experiments/{name}.py", *args, place=place)


def arguments(place, workdir, *more):
    return [
        f"--workdir={place / workdir}", f"--data.source={place / 'prompts.jsonl'}",
        *SMALL, *more,
    ]  # fmt: skip


def stored(folder, step=None):
    """Every array of a checkpoint, by name."""
    path, types = checkpoint.array_folder(folder / "checkpoints", step)
    import orbax.checkpoint as ocp

    with warnings.catch_warnings():  # that no shardings are asked for
        warnings.simplefilter("ignore")
        tree = ocp.PyTreeCheckpointer().restore(path)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    assert len(leaves) == len(types)
    return {jax.tree_util.keystr(path): numbers(leaf) for path, leaf in leaves}


def numbers(leaf):
    """The array; of a random key, the numbers it is made of."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def lines(folder):
    keep = ("reward", "kl", "loss", "entropy", "ratio_high", "kl_coef")
    text = (folder / "metrics.jsonl").read_text().splitlines()
    return [[json.loads(line)[name] for name in keep] for line in text]


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(place):
    """All that a run depends on is kept: adaptive KL, moments, optimizers, order."""
    more = ["--reward=own_rewards:letters", "--num_steps=4", "--ppo.kl_target=0.5",
            "--ppo.kl_horizon=100", "--ppo.norm_scores"]  # fmt: skip
    code, out, err = run(place, "ppo", *arguments(place, "whole", *more))
    assert code == 0, err
    assert "reward" in out and "gain:" in out
    process = start(place, "ppo", *arguments(place, "killed", *more))
    deadline = time.monotonic() + 600
    while not (place / "killed" / "checkpoints" / "2").is_dir():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, out, err = run(place, "ppo", *arguments(place, "killed", *more))
    assert code == 0 and "resumed at step" in out, err
    want, found = stored(place / "whole"), stored(place / "killed")
    assert want.keys() == found.keys()
    assert any("critic" in name for name in want)
    assert any("kl_coef" in name for name in want)
    for name, array in want.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert lines(place / "whole") == lines(place / "killed")

    # The policy alone opens as a model.
    opened = load.load(place / "whole")
    tokens = np.arange(12).reshape(1, 12)
    hidden = transformer.make(opened.cfg).apply(opened.params, {"tokens": tokens})[0]
    assert np.isfinite(hidden).all() and "head" in opened.params


@pytest.mark.slow
def test_eight_devices_give_the_same_losses(place):
    one = ["--reward=own_rewards:letters", "--num_steps=2", "--critic.trunk=shared"]
    code, _, err = run(place, "ppo", *arguments(place, "one", *one))
    assert code == 0, err
    mesh = ["--cpu_devices=8", "--mesh=data=2,fsdp=2,tensor=2"]
    code, _, err = run(place, "ppo", *arguments(place, "eight", *one, *mesh))
    assert code == 0, err
    np.testing.assert_allclose(
        lines(place / "eight")[0], lines(place / "one")[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_adapters_learn_and_open_with_their_base(place):
    args = arguments(
        place, "lora", "--reward=own_rewards:letters", "--num_steps=3",
        "--lora.rank=4", "--optim.lr=1e-2",
    )  # fmt: skip
    code, out, err = run(place, "ppo", *args)
    assert code == 0, err
    assert "policy/blocks/attention/q_a_DR" in out and "q_DNH" not in out
    opened, base = load.load(place / "lora"), load.load(GOLDEN)
    assert not np.array_equal(
        opened.params["blocks"]["attention"]["q_DNH"],
        base.params["blocks"]["attention"]["q_DNH"],
    )


@pytest.mark.slow
def test_a_reward_that_fails_loses_nothing(place):
    args = arguments(
        place, "broken", "--reward=own_rewards:broken_later", "--num_steps=4",
        "--save_every=100",
    )  # fmt: skip
    code, _, err = run(place, "ppo", *args)
    assert code == 1 and "broken_later gave nan for answer 0" in err, err
    assert "Traceback" not in err
    code, out, err = run(place, "ppo", *args)
    assert code == 0 and "resumed at step" in out, err


@pytest.mark.slow
def test_bad_input_is_explained(place):
    reward = "--reward=own_rewards:letters"
    for flag, code, message in (
        ("--sampling.top_p=0.9", 1, "sample by temperature alone"),
        ("--rollout.max_new_tokens=400", 1, "leaves no room for a prompt"),
        ("--ppo.num_minibatches=5", 1, "16 answers cannot be cut into 5 minibatches"),
        ("--critic.start=nowhere", 1, "nowhere"),
        ("--data.num_held_out=99", 1, "40 prompts, of which 99 are held out"),
        ("--reward=own_rewards:nothing", 1, "no attribute 'nothing'"),
    ):
        found = run(place, "ppo", *arguments(place, "bad", reward, flag))
        assert found[0] == code and message in found[2], found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_groups_learn(place, kind):
    args = arguments(
        place, kind, "--reward=own_rewards:letters", "--num_steps=6",
        "--rollout.num_samples=4", f"--grpo.kind={kind}", "--optim.lr=1e-2",
        "--grpo.kl_coef=0.01",
    )  # fmt: skip
    code, _, err = run(place, "grpo", *args)
    assert code == 0, err
    rewards = [line[0] for line in lines_of(place / kind)]
    assert np.mean(rewards[-2:]) > rewards[0]
    assert load.load(place / kind).params


def lines_of(folder):
    text = (folder / "metrics.jsonl").read_text().splitlines()
    return [[json.loads(line)["reward"]] for line in text]


@pytest.mark.slow
def test_pairs_are_learned_and_the_run_resumes(place):
    args = [
        f"--workdir={place / 'dpo'}", f"--data.source={place / 'pairs.jsonl'}",
        f"--init_from={GOLDEN}", "--num_steps=30", "--train.eval_every=15",
        "--optim.lr=3e-3", "--data.context=64", "--data.validation_fraction=0.2",
    ]  # fmt: skip
    code, _, err = run(place, "dpo", *args)
    assert code == 0, err
    text = (place / "dpo" / "metrics.jsonl").read_text().splitlines()
    looks = [json.loads(line) for line in text if "val_accuracy" in line]
    assert looks[-1]["val_accuracy"] > 0.9 and looks[-1]["val_loss"] < 0.6
    code, out, err = run(place, "dpo", *args)
    assert code == 0 and "resumed at step 30" in out, err
