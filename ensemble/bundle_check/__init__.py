"""One check of everything in a bundle against its manifest, before any node loads it."""
