"""Other strategies of using experience from many tasks."""
