"""Benchmarks: suites of families, agents and seeds, trained and evaluated as resumable cells."""
