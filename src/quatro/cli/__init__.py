"""The door: what can I ask for? One file per verb; importing them needs no torch."""
