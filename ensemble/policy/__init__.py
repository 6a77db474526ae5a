"""What the policy node decides by, beside its value network: alphas, exploration, and commands about both."""
