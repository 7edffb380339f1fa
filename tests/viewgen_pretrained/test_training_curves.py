"""The picture of a network's training: what is drawn of which metrics."""

import numpy as np
from PIL import Image

from viewgen_pretrained.training_curves import LONGEST_LINE, TrainingCurves, _thinned, draw_training_curves


def size_of(picture):
    """Return width and height."""
    with Image.open(picture) as image:
        return image.size


def test_long_lines_are_means_of_neighbours_and_short_ones_stay():
    steps = np.arange(1, 3 * LONGEST_LINE + 2)
    thin_steps, values = _thinned(steps, steps.astype(float) ** 2)
    assert len(values) <= LONGEST_LINE
    size = 4  # the smallest that makes few enough points
    assert values[0] == np.mean(steps[:size].astype(float) ** 2)
    assert thin_steps[-1] == steps[-1], "601 points leave one over"
    short = np.arange(5)
    assert [line.tolist() for line in _thinned(short, short)] == [[0, 1, 2, 3, 4]] * 2


def test_trainings_become_panels_and_missing_ones_are_left_out(tmp_path):
    target = tmp_path / "curves.png"
    draw_training_curves([tmp_path / "none.csv"], target)
    assert not target.exists()

    encoder, generator = tmp_path / "e.csv", tmp_path / "g.csv"
    encoder.write_text("step,loss\n19,5\n39,4\n")
    draw_training_curves([encoder, generator], target)
    one = size_of(target)
    generator.write_text("step,d_loss,real_sign,r1,g_loss\n19,1,0.5,,2\n39,1,0.4,0.1,2\n")
    draw_training_curves([encoder, generator], target)
    four = size_of(target)
    assert four[0] == 3 * one[0], "three panels in a row"
    assert four[1] == 2 * one[1], "two rows"


def test_a_run_is_drawn_with_its_checkpoints_and_at_its_end(tmp_path):
    curves = TrainingCurves()
    curves.close()  # never started: nothing to draw
    curves.start(tmp_path, 0)
    (tmp_path / "metrics.csv").write_text("step,loss\n19,5\n")
    curves.checkpoint()
    first = (tmp_path / "curves.png").read_bytes()
    (tmp_path / "metrics.csv").write_text("step,loss\n19,5\n39,4\n")
    curves.checkpoint()
    assert (tmp_path / "curves.png").read_bytes() == first, "not at every checkpoint"
    curves.close()
    assert (tmp_path / "curves.png").read_bytes() != first
