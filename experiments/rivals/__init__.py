"""Other libraries' rankers on the same requests, trained in an environment of their own."""
