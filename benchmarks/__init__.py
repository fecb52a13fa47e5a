"""Benchmarks of the store, compared with raw drivers, the stores of magnus, and the older SQLAlchemy extension."""
