"""Parts that models share: tokens, attention, trunk, heads, losses."""
