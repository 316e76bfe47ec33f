"""Real parts for tests: redis-server processes, pods, a byte proxy."""
