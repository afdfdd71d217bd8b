"""Memory arithmetic: what a model, an adapter and their training take, from a configuration alone. Standard library only."""
