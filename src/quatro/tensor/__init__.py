"""What is a 4-bit tensor: quantize, the parts it is stored as, and a table from a tensor's own quantiles."""
