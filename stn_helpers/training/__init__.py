"""Training: recipes, the loop that trains by them, and files from which a killed run goes on."""

from .recipes import RECIPES, Recipe
from .trainer import Trainer, evaluate, fit

__all__ = ["RECIPES", "Recipe", "Trainer", "evaluate", "fit"]
