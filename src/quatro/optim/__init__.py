"""What is an optimizer whose states have a budget? Pages of states, the pool that holds a few of them, and AdamW and Lion on top."""

from quatro.optim.paged import PagedAdamW, PagedLion

__all__ = ["PagedAdamW", "PagedLion"]
