"""The unified transformer: one trunk, one retrieval head, one ranking head."""
