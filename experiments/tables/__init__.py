"""The tables of README and docs, each a function that returns Markdown: a caption, and rows from results files."""
