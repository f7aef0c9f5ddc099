"""The bars and the curves of LoRA by rank, on figures made up."""

from llmjax.evals import lora_page as page
from llmjax.evals.instructions import Share

RIGHT = {
    page.BASE: {"pairs": Share(0.1, 0.0, 0.2, [0.1])},
    page.FULL: {"pairs": Share(0.9, 0.8, 1.0, [0.9])},
    "rank 4": {"pairs": Share(0.5, 0.4, 0.6, [0.5])},
    "rank 16": {"pairs": Share(0.885, 0.8, 0.9, [0.885])},
    "rank 16 nf4": {"pairs": Share(0.2, 0.1, 0.3, [0.2])},
}
ROWS = {
    model: {"model": model, "held-out loss": loss}
    for model, loss in (("rank 16", 1.0), ("rank 16 nf4", 1.03), (page.FULL, 0.9))
}


def test_a_curve_is_of_one_kind_of_base():
    curve, level = page.curves(RIGHT)
    assert curve.x == [4, 16] and curve.y == [0.5, 0.885]
    assert curve.spans == [(0.4, 0.6), (0.8, 0.9)]
    assert level.y == [0.9, 0.9] and level.style == "dashed"


def test_bars():
    said = page.verdicts(RIGHT, ROWS, 16)
    assert said["rank 16, pairs"].startswith("1.5 points behind all weights; met")
    assert said["rank 16 nf4"].startswith(
        "held-out loss +3.00 % beside rank 16; MISSED"
    )
    said = page.verdicts(RIGHT | {"rank 16": RIGHT["rank 4"]}, ROWS, 16)
    assert "40.0 points behind all weights; MISSED" in said["rank 16, pairs"]
