"""From a configuration to a skeleton, one file per family of models."""
