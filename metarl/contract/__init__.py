"""The public contract tests of families and agents."""
