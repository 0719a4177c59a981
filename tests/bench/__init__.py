"""Benchmarks of every budget of design.md, section 5; `make bench`."""
