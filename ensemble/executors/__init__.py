"""What runs the model for the nodes, on whatever device."""
