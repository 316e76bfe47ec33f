"""Chaos: pods and Redis mistreated by a seeded schedule, under a load that knows what must come of it."""
