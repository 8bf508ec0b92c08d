"""Contracts of the Chirp cluster: one versioned package a service (`chirp.tweet.v1`), and their errors (`chirp.errors`)."""
