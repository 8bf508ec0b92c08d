"""The benchmarks, one module per path: each gives its results against a floor measured in the same run."""
