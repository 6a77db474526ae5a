"""A page that shows what running servers answer, beside the history that they answer for."""
