"""Draws the trainings of the weights that ship: ``python docs/scripts/training_curves.py``."""

from pathlib import Path

from viewgen_pretrained.ship import PACKAGE, TRAININGS
from viewgen_pretrained.training_curves import draw_training_curves

FIGURES = Path(__file__).parents[1] / "figures"

if __name__ == "__main__":
    for folder in sorted((PACKAGE / "weights").iterdir()):
        tables = [folder / f"{kind}-training.csv" for kind in TRAININGS]
        draw_training_curves(tables, FIGURES / f"training-{folder.name}.png")
