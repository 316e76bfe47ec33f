"""The same turn in other frameworks: each in an environment of its own, behind the same HTTP as the floor."""
