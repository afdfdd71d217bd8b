"""Complete named configurations: `load_recipe("demo")`, or the path of a recipe of one's own."""

from quatro.recipes.packaged import load_recipe, named_recipe, packaged_names, recipe_values

__all__ = ["load_recipe", "named_recipe", "packaged_names", "recipe_values"]
