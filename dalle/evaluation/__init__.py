"""How good a trained model is, in numbers with their chance levels."""
