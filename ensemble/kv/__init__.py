"""Keys and values of users: the pool of slots, how a known prefix is found, and the memory that holds it."""
