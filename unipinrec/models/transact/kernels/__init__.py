"""Search and encoder of the second ranker in Triton's language. What runs on a CPU imports nothing here."""
