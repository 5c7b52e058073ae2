"""Navigation of a point."""
