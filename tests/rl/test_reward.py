"""Reward models by hand: what is scored, how it is scaled, sharded, judged, opened."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from llmjax import losses, sharding
from llmjax.config import ModelConfig
from llmjax.data import chat
from llmjax.data.comparison_rows import Scribe
from llmjax.data.tokenizer import byte_tokenizer, load_tokenizer
from llmjax.load import load as load_model
from llmjax.models import transformer
from llmjax.rl import reward
from llmjax.rl.reward import RewardConfig, RewardModel, judge, warnings

GOLDEN = Path(__file__).parents[1] / "golden"
ASK = [{"role": "system", "content": "s"}, {"role": "user", "content": "Why?"}]


@pytest.fixture(name="model", scope="module")
def _model():
    """The golden decoder, with a head of its own."""
    loaded = load_model(GOLDEN / "sft")
    cfg = transformer.scorer_of(loaded.cfg)
    params = transformer.with_score_head(cfg, loaded.params, jax.random.key(1))
    scribe = Scribe(loaded.tokenizer, chat.named("chatml"))
    return RewardModel(scribe, transformer.classifier(cfg), params, context=48)


def test_the_head_begins_with_scores_of_variance_one():
    cfg = transformer.scorer_of(ModelConfig(width=2047))
    head = transformer.with_score_head(cfg, {}, jax.random.key(0))["head"]
    assert head["head_DO"].shape == (2047, 1) and not head["bias_O"].any()
    assert np.std(head["head_DO"]) == pytest.approx(1 / np.sqrt(2048), rel=0.06)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_last_real_token_is_read(side):
    cfg = transformer.scorer_of(ModelConfig())
    hidden_BTD = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3)
    real_BT = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    real_BT = real_BT if side == "right" else real_BT[:, ::-1]
    found = transformer.pool(cfg, hidden_BTD, real_BT)
    last = [2, 4] if side == "right" else [4, 4]
    np.testing.assert_array_equal(found, hidden_BTD[[0, 1], last])
    np.testing.assert_array_equal(transformer.pool(cfg, hidden_BTD), hidden_BTD[:, -1])


def test_a_score_is_the_head_on_the_last_token_alone_or_in_a_batch(model):
    answers = ["No.", "Because " * 3, "x", "Yes, and no, and yes again."] * 5
    scores = model.score(["Why?"] * 20, answers)
    assert scores.dtype == np.float32 and scores.shape == (20,)
    inner = transformer.make(load_model(GOLDEN / "sft").cfg)
    for number in range(4):
        [alone] = model.score(["Why?"], answers[number : number + 1])
        talk = [{"role": "user", "content": "Why?"}]
        talk += [{"role": "assistant", "content": answers[number]}]
        [(ids, _)] = model.scribe.encode([talk])
        hidden_BTD = inner.apply(model.params, {"tokens": np.array([ids])}).hidden_BTD
        by_hand = float(hidden_BTD[0, -1] @ model.params["head"]["head_DO"][:, 0])
        assert scores[number] == pytest.approx(by_hand, abs=1e-5)
        assert alone == pytest.approx(by_hand, abs=1e-5)
    assert len(set(np.round(scores, 4))) == 4
    # An answer may be over before it begins.
    assert np.isfinite(model.score(["Why?"], [""])).all()
    # A conversation is a prompt too, and the model is a function like any other.
    [found] = model([ASK], ["No."])
    assert abs(found - scores[0]) > 1e-4


def test_tokens_are_scored_as_their_text_is(model):
    form, tokenizer = model.scribe.form, model.scribe.tokenizer
    prompt = chat.prompt_ids(tokenizer, form, ASK)
    end = chat.stop_ids(tokenizer, form)[-1]
    rows = [[*prompt, *tokenizer.encode(text), end] for text in ("No.", "Maybe not.")]
    tokens_BT = np.full((2, 48), 7, np.int32)  # what comes after the end is not read
    for row, ids in zip(tokens_BT, rows, strict=True):
        row[: len(ids)] = ids
    last_B = np.array([len(ids) - 1 for ids in rows])
    found = model.score_tokens(tokens_BT, last_B)
    expected = model.score([ASK, ASK], ["No.", "Maybe not."])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    other = model.score_tokens(tokens_BT, last_B - 1)
    assert np.abs(other - expected).min() > 1e-4
    with pytest.raises(ValueError, match="rows of 49 tokens, and the reward model"):
        model.score_tokens(np.zeros((1, 49), np.int32), np.array([3]))


def test_what_cannot_be_scored_is_named(model):
    long = "why " * 60
    with pytest.raises(ValueError, match="conversation 1: prompt longer than the cont"):
        model.score(["Why?", long], ["a", "b"])
    [cut] = model.score(["Why?"], [long])  # its end is not read
    assert np.isfinite(cut)
    model.check_vocabulary(load_tokenizer(GOLDEN / "sft"))
    with pytest.raises(ValueError, match="of another vocabulary than the policy: 30"):
        model.check_vocabulary(byte_tokenizer())


def test_normalisation(model):
    prompts = [f"Why {number}?" for number in range(40)]
    raw = model.score(prompts, prompts)
    ids = [
        answer.ids
        for answer in model.scribe.encode(
            [
                [{"role": role, "content": text} for role in ("user", "assistant")]
                for text in prompts
            ]
        )
    ]
    for how, std in (("std", 1.0), ("mean", np.std(raw))):
        found = model.normalised(RewardConfig(normalise=how), ids)
        scores = found.score(prompts, prompts)
        assert np.mean(scores) == pytest.approx(0, abs=1e-4)
        assert np.std(scores) == pytest.approx(std, rel=1e-3)
        # To do it twice changes nothing; the weights can hold it all.
        again = found.normalised(RewardConfig(normalise=how), ids)
        assert (again.gain, again.bias) == pytest.approx(
            (found.gain, found.bias), abs=1e-4
        )
        folded = dataclasses.replace(found, params=found.folded(), gain=1.0, bias=0.0)
        np.testing.assert_allclose(folded.score(prompts, prompts), scores, atol=2e-5)
        # The probability of a pair is the same as before.
        gap = (scores[0] - scores[1]) / found.gain
        assert gap == pytest.approx(raw[0] - raw[1], abs=1e-5)
    assert model.normalised(RewardConfig(normalise="none"), ids) is model
    with pytest.raises(ValueError, match="the 3 reference answers all score"):
        model.normalised(RewardConfig(), ids[:1] * 3)


def test_references_of_a_file(model, tmp_path):
    file = tmp_path / "chats.jsonl"
    texts = ["yes", "no", "perhaps"]
    lines = [json.dumps({"prompt": "q", "completion": text}) for text in texts]
    file.write_text("\n".join(lines))
    found = model.normalised(RewardConfig(references=str(file)), [])
    assert np.mean(found.score(["q"] * 3, texts)) == pytest.approx(0, abs=1e-5)


MESHES = ["data=8", "data=2,fsdp=2,tensor=2", "fsdp=2,sequence=4", "tensor=2,data=4"]


@pytest.mark.parametrize("spec", MESHES)
def test_losses_and_gradients_are_those_of_one_device(spec):
    cfg = transformer.scorer_of(
        ModelConfig(
            vocab_size=64,
            num_layers=2,
            width=32,
            num_heads=4,
            num_kv_heads=2,
            head_width=8,
            ff_width=64,
            context=32,
        )
    )
    rng = np.random.default_rng(0)
    lengths_BA = rng.integers(1, 17, (8, 3))
    rank_BA = rng.integers(1, 4, (8, 3)).astype(np.int32)
    rank_BA[::3, 2] = 0
    batch = {
        "tokens_BAT": rng.integers(0, 64, (8, 3, 16)).astype(np.int32),
        "segments_BAT": (np.arange(16) < lengths_BA[..., None]).astype(np.int32),
        "rank_BA": rank_BA,
        "margin_B": rng.random(8).astype(np.float32),
    }
    params = transformer.make(cfg).init(jax.random.key(0))
    loss_fn = partial(losses.prefer, transformer.classifier(cfg), centring=0.1)
    update = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (expected, _), slopes = update(params, batch)
    mesh = sharding.make_mesh(spec)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.param_shardings(params, mesh))
        (found, metrics), grads = update(placed, sharding.placer(mesh)(batch))
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert metrics["loss"][1] == 8
    for one, other in zip(*map(jax.tree.leaves, (slopes, grads)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


GOOD = dict(
    accuracy=0.8, accuracy_low=0.75, accuracy_high=0.85, pairs=500,
    calibration_error=0.03, accuracy_longer_better=0.85, accuracy_shorter_better=0.75,
    accuracy_always_longer=0.5,
)  # fmt: skip
ILL = {
    "chance": (dict(accuracy=0.55, accuracy_low=0.49), "that may be chance"),
    "low": (dict(accuracy=0.58, accuracy_low=0.55), "under 60%"),
    "few": (dict(pairs=40), "only 40 held-out pairs"),
    "calibration": (dict(calibration_error=0.2), "badly calibrated: .* 20% off"),
    "length": (dict(accuracy_shorter_better=0.4), "it likes length: 85.0% right where"),
    "brevity": (dict(accuracy_longer_better=0.5), "it likes brevity: 75.0% right"),
    "longer": (dict(accuracy_always_longer=0.82), "always the longer answer"),
}


@pytest.mark.parametrize("name", ILL)
def test_an_ill_report_is_told_in_words(name, tmp_path):
    more, message = ILL[name]
    assert judge(GOOD) == [] == judge(GOOD | dict(accuracy_longer_better=None))
    [said] = judge(GOOD | more)
    (tmp_path / "summary.json").write_text(json.dumps(GOOD | more))
    assert warnings(tmp_path) == [said]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(said)


def test_without_a_report_there_is_a_warning(tmp_path):
    for text in (None, "{}", "[", "[]"):
        if text is not None:
            (tmp_path / "summary.json").write_text(text)
        [said] = warnings(tmp_path)
        assert "no report on this reward model" in said


def test_what_is_no_reward_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="sft is no reward model; experiments/"):
        reward.load(GOLDEN / "sft")
    with pytest.raises(FileNotFoundError, match="no model here"):
        reward.load(tmp_path)
    for fields in ({"smoothing": 0.5}, {"centring": -1.0}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            RewardConfig(**fields)
