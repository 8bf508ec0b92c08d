"""Floors: the least that each path could cost on this machine, as small programs of their own."""
