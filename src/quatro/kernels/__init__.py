"""Which instructions: the reference that defines the bits, the native CPU kernels, and the choice between them."""
