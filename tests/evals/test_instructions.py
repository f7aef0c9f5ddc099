"""What is asked of models whose answers are known, and the page on it."""

import itertools
import json

import jax
import numpy as np
import pytest

from llmjax.config import ModelConfig
from llmjax.data import chat, instructions
from llmjax.data.instructions import Example, InstructionConfig, Pair
from llmjax.data.tokenizer import byte_tokenizer
from llmjax.evals import instructions as asking
from llmjax.evals import instructions_page as page
from llmjax.evals.instructions import TuneConfig
from llmjax.models import transformer

TOKENIZER = byte_tokenizer()
SETS = instructions.asked(InstructionConfig(num_asked=4, num_asked_pair=2))
REVERSE, FIRST, *_ = (
    task for task in instructions.TASKS if task.name in ("reverse", "first")
)


def reversal(given):
    return Example(REVERSE, "reverse", given, REVERSE.solve(given))


def test_answers_are_those_of_the_model_whatever_they_are_asked_with():
    cfg = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, num_layers=1, width=32, num_heads=2,
        num_kv_heads=2, head_width=16, ff_width=32, context=128,
    )  # fmt: skip
    model = transformer.make(cfg)
    params = jax.jit(model.init)(jax.random.key(0))
    template = chat.named("plain")

    @jax.jit
    def likeliest(params, tokens):
        hidden = model.apply(params, {"tokens": tokens}).hidden_BTD
        return model.readout(params, hidden)[0].argmax(-1)

    sets = {"some": [reversal("a b"), reversal("c a b d")], "one": [reversal("d a")]}
    said = asking.ask(model, params, TOKENIZER, template, cfg.context, sets)
    assert {name: list(words) for name, words in said.items()} == {
        name: ["told", "untold"] for name in sets
    }
    longest = len(sets["some"][1].answer) + 2  # of all answers, with its end
    for name, examples in sets.items():
        for number, example in enumerate(examples):
            for word, told in (("told", True), ("untold", False)):
                ids = TOKENIZER.encode(example.question(told) + "\n")
                answer = []
                while len(answer) < longest:  # one token after the other, by hand
                    tokens = np.zeros((1, cfg.context), np.int32)  # what follows is
                    tokens[0, : len(ids + answer)] = ids + answer  # not seen
                    answer.append(int(likeliest(params, tokens)[len(ids + answer) - 1]))
                    if answer[-1] == TOKENIZER.eos_id:
                        answer.pop()
                        break
                assert said[name][word][number] == TOKENIZER.decode(answer)


def test_the_share_of_right_answers_by_hand():
    givens = ["a b", "a c", "b c", "c d"]
    examples = [reversal(given) for given in givens]
    examples += [Example(FIRST, "first", given, given[0]) for given in ("a b", "b c")]
    right = ["b a", "c a", "c b", "d c", "a", "b"]
    wrong = ["", "c a", "", "", "a", "x"]
    found = asking.share(examples, [right, wrong])
    # Each task counts alike: (1 + 1) / 2 and (1/4 + 1/2) / 2.
    assert found.seeds == [1.0, 0.375] and found.mean == 0.6875
    assert found.low == pytest.approx(0.25) and found.high == 1.0
    alone = asking.share(examples, [right])
    assert alone[:3] == (1.0, 1.0, 1.0)
    pair = [Example(Pair(REVERSE, FIRST), "", "a b", "b a ; b")]
    assert asking.share(pair, [["b a ; b"], ["b a ; a"]]).seeds == [1.0, 0.0]


def test_the_best_constant_answer_by_hand():
    firsts = [Example(FIRST, "", given, given[0]) for given in ("a b", "a c", "b c")]
    assert asking.chance(firsts) == pytest.approx(2 / 3)
    same = [reversal("a a"), reversal("b b"), reversal("a b")]
    assert asking.chance(same) == pytest.approx(2 / 3)  # by copying
    assert asking.chance(firsts + same[2:]) == pytest.approx((2 / 3 + 1) / 2)


def test_pairs_that_all_models_know_the_steps_of():
    examples = SETS["held-out pairs"]
    some, numbers = asking.known_pairs(examples, 4)
    assert 0 < len(some) < len(examples)
    assert some == [examples[number] for number in numbers]
    names = {pair.name for pair in instructions.pairs(4, held_out=True)}
    assert {one.kind.name for one in some} == names
    assert asking.known_pairs(examples, 12)[0] == examples


def make_said(share, untold=0.0):
    """Of each set, so many answers are right, evenly over the tasks."""

    def say(examples, wanted):
        due = itertools.count()
        return [
            one.answer if (next(due) * wanted) % 1 < wanted else "nothing"
            for one in examples
        ]

    return {
        name: {
            "told": say(examples, share.get(name, 0.25)),
            "untold": say(examples, untold),
        }
        for name, examples in SETS.items()
    }


def make_arms(**last):
    few = {"held-out wordings": 0.5, "held-out pairs": 0.5}
    return [
        page.Arm(0, True, [make_said({name: 0.0 for name in SETS})]),
        page.Arm(4, True, [make_said(few)] * 2),
        page.Arm(12, True, [make_said({"held-out wordings": 1.0, **last})] * 2),
        page.Arm(12, False, [make_said({}, untold=0.5)]),
    ]


def test_bars_that_are_met_and_missed(tmp_path):
    arms = make_arms(**{"held-out pairs": 1.0})
    page.write(tmp_path, arms, SETS, {"num_steps": 3}, {"12_seed2": "killed"})
    found = json.loads((tmp_path / "summary.json").read_text())
    said = found["said"]
    assert (
        "100.0% after tuning on 12 clusters, 0.0% before" in said["held-out wordings"]
    )
    assert said["held-out wordings"].endswith("; met: 90%")
    assert (
        "+50.0 points from 4 clusters to 12 clusters; met: 15"
        in (said["held-out pairs"])
    )
    assert "both of whose steps" in said["held-out pairs of 4 clusters"]
    assert (
        "0.0% after tuning on 12 clusters, 50.0% tuned without any"
        in (said["without the instruction"])
    )
    assert "above the best constant answer" in said["new tasks"]
    assert found["failed"] == {"12_seed2": "killed"}
    names = [line["name"] for line in found["shares"]]
    assert names == [*SETS, "held-out pairs of 4 clusters"]
    line = found["shares"][1]
    assert line["told"]["4 clusters"]["seeds"] == [0.5, 0.5]
    assert line["untold"]["12 clusters, never told"]["mean"] == 0.5
    told, untold = (page.table(arms, page.lines(arms, SETS), told) for told in (1, 0))
    assert told[1]["12 clusters"].startswith("100.0 (100.0 to 100.0)")
    assert untold[1]["12 clusters"].startswith("0.0")
    assert untold[1]["12 clusters, never told"].startswith("50.0")
    text = (tmp_path / "report.html").read_text()
    for word in ("FAILED 12_seed2", "never told", "nothing", "swap_ends", "before"):
        assert word in text
    for name in ("clusters", "instruction"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000

    page.write(tmp_path, make_arms(**{"held-out pairs": 0.5}), SETS, {}, {})
    said = json.loads((tmp_path / "summary.json").read_text())["said"]
    assert "+0.0 points" in said["held-out pairs"]
    assert said["held-out pairs"].endswith("MISSED: 15")


def test_one_count_of_clusters_has_no_rise(tmp_path):
    before, _, most, _ = make_arms()
    page.write(tmp_path, [before, most], SETS, {}, {})
    said = json.loads((tmp_path / "summary.json").read_text())["said"]
    assert "points" not in said["held-out pairs"]
    assert "tuned without" not in said["without the instruction"]


def test_without_any_tuned_model_the_failures_are_said(tmp_path):
    with pytest.raises(ValueError, match="no model was tuned: 4_seed0: killed"):
        page.write(tmp_path, make_arms()[:1], SETS, {}, {"4_seed0": "killed"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clusters": ()}, "clusters: give numbers from 1 to 12"),
        ({"clusters": (4, 13)}, "clusters: give numbers from 1 to 12"),
        ({"num_seeds": 0}, "num_seeds must be positive"),
        ({"num_untold": -1}, "num_untold must not be negative"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        TuneConfig(**change)
