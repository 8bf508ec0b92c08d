"""Stores on real backends."""
