"""Writes tests/golden/reward: what TRL's trainer makes of comparisons, step by step.

    pip install trl
    python tools/golden_reward.py

steps.json: the ids that `trl.RewardTrainer` read, with margins, the scores and the loss
of each step, with the scores centred; the head before the first one. The trunk is that
of tests/golden/sft, and so is the tokenizer.
"""

import json
import pathlib
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
LEARNING_RATE, NUM_STEPS, BATCH_SIZE, CENTRING = 0.02, 3, 4, 0.05
PADDING = "<start_of_turn>"  # not the end, which transformers would not read then
PAIRS = [
    ("What is one and one?", "Two.", "Three, I think."),
    ("Say hello.", "Hello, you.", "No."),
    ("Name three fruits.", "Apple, pear and fig, of which I like the fig.", "Fish."),
    ("Why?", "Because.", "Why not, why not, why not?"),
    ("Tell me a story.", "Once upon a time there was a fox.", "Once."),
    ("Count.", "1, 2, 3, 4, 5, 6", "1, 3, 2"),
    ("Is it late?", "It is.", "Late? It is never late, and never early."),
    ("Bye", "Bye", "What?"),
]
MARGINS = [0.0, 0.5, 1.0, 2.0, 0.25, 3.0, 0.0, 1.5]


def make_trainer(folder: str, read: list[dict]):
    """The trainer, which writes down in `read` what each of its steps is about."""
    import datasets
    import transformers
    import trl

    class Trainer(trl.RewardTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            kept = {k: v.tolist() for k, v in inputs.items() if hasattr(v, "tolist")}
            loss, output = super().compute_loss(model, inputs, return_outputs=True)
            scores = output.logits.squeeze(-1).tolist()
            read.append(kept | {"loss": loss.item(), "scores": scores})
            return (loss, output) if kwargs.get("return_outputs") else loss

    tokenizer = transformers.AutoTokenizer.from_pretrained(
        GOLDEN / "sft", pad_token=PADDING
    )
    transformers.set_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        GOLDEN / "sft", num_labels=1, pad_token_id=tokenizer.pad_token_id
    )
    args = trl.RewardConfig(
        output_dir=folder, max_steps=NUM_STEPS, learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0, warmup_steps=0,
        per_device_train_batch_size=BATCH_SIZE, gradient_checkpointing=False,
        bf16=False, use_cpu=True, report_to="none", save_strategy="no", seed=0,
        center_rewards_coefficient=CENTRING, max_length=128,
    )  # fmt: skip
    rows = [
        dict(zip(("prompt", "chosen", "rejected"), pair, strict=True), margin=margin)
        for pair, margin in zip(PAIRS, MARGINS, strict=True)
    ]
    return Trainer(
        model, args, processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(rows),
    )  # fmt: skip


def main() -> None:
    import torch
    import transformers
    import trl

    read = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, read)
        head = trainer.model.score.weight.tolist()
        trainer.train()
    versions = {one.__name__: one.__version__ for one in (trl, transformers, torch)}
    found = {
        "versions": versions,
        "learning_rate": LEARNING_RATE, "centring": CENTRING, "head": head,
        "steps": read,
    }  # fmt: skip
    (GOLDEN / "reward").mkdir(exist_ok=True)
    text = json.dumps(found) + "\n"
    (GOLDEN / "reward" / "steps.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
