"""A discrete-event model of pods, Redis shards, slots and the queue, fed with measured service times."""
