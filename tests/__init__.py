"""The tests: pure code, stores, services, gateway, the running cluster, and the rules of the house."""
