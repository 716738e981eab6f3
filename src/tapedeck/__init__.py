"""Tapedeck keeps the place of every listener in every playlist."""
