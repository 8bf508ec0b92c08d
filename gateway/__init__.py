"""The REST shim."""
