"""Load tests: what a turn costs, next to a floor that does the same work without any of the safety."""
