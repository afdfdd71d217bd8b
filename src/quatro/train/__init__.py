"""How is a run done? A recipe goes in, a directory with an adapter, its checkpoints and a report comes out.

`from quatro.train.recipe_file import load_recipe` and `from quatro.train.run import train`.
"""
