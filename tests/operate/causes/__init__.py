"""What alerts fire on, done for real: each cause makes what it says happen to a Redis and pods of its own."""
