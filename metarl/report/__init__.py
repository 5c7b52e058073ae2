"""Tables, figures, HTML pages and films."""
