"""What links and relays say to each other, and what they do about it: no socket, no clock, no randomness."""
