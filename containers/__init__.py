"""Builds the image for CPU hosts and tries it, confined and bounded as docker/compose.yaml has it."""
