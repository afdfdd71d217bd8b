"""What is done to a dataset: files become rows, rows examples, examples tokens with a loss on what is to be learned.

The tokenizer is handed in from above (data.tokenizer says what it must be able to do); nothing here imports transformers.
"""
