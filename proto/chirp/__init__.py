"""Contracts of the Chirp cluster: one package a service, versioned (`chirp.tweet.v1`), and the errors they raise (`chirp.errors`)."""
