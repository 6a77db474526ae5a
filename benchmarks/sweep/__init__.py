"""What is measured over values of one thing that is varied."""
