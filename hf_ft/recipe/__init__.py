"""The recipe: what a run is asked to do, checked before anything heavy is imported."""

from hf_ft.recipe.build import json_schema, recipe_model
from hf_ft.recipe.read import load_recipe
from hf_ft.recipe.schema import Recipe

__all__ = ["Recipe", "json_schema", "load_recipe", "recipe_model"]
