from pathlib import Path

from matplotlib.image import imread

from quatro.train.curve import draw_losses, points

HISTORY = [
    {"eval_loss": 5.0, "step": 0},
    {"loss": 4.5, "step": 1},
    {"loss": 4.0, "step": 2},
    {"eval_loss": 4.2, "step": 2},
    {"eval_loss": 4.1, "step": 2},
    {"train_loss": 4.2, "step": 2},
]


def test_points_are_what_was_logged_and_the_later_value_of_a_step() -> None:
    assert points(HISTORY, "loss") == ([1, 2], [4.5, 4.0])
    assert points(HISTORY, "eval_loss") == ([0, 2], [5.0, 4.1])


def test_the_figure_shows_both_losses(tmp_path: Path) -> None:
    for name, history in (("both", HISTORY), ("training", [entry for entry in HISTORY if "loss" in entry]), ("none", [])):
        draw_losses(history, tmp_path / name, "a run")
    both, training, none = (imread(tmp_path / name, format="png") for name in ("both", "training", "none"))
    assert both.shape == (540, 960, 4)
    assert (both != training).any()
    assert (training != none).any()
