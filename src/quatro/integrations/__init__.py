"""How quatro meets the ecosystem: transformers' quantizer, PEFT's adapters, checkpoints on disk."""
