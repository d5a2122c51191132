"""Benchmarks. Their processes keep freed memory, as those of the commands do."""

from lesionwise.memory import keep_freed_memory

keep_freed_memory()
