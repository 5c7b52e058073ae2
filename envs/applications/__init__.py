"""Families from applications: medicine and recommendation."""
