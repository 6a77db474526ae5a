"""What a learned policy is worth where the truth is known: against static weights and other learners."""
