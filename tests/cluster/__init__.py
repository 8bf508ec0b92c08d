"""The running cluster, through its doors."""
