"""jedlik: serve large language models across many engines as if they were one."""

__version__ = "0.1.0"
