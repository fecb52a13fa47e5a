"""The executor `local-parallel`, and the processes that run its branches."""
