"""How often users act, and are items and their attributes acted on."""
