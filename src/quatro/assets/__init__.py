"""Data only: the embedded model and data set (README.md beside this file says what each is)."""
