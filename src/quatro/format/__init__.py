"""Which bits: code tables, layout, the quantization spec, and the error tree. Standard library only."""
