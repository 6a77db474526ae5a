"""How good recommendations are: metrics, their confidence intervals and held-out protocols."""
