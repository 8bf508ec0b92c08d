"""Services and the cluster runner on real backends."""
