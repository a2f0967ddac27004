"""Captioned pictures: reading, augmenting, batching, and the built-in shapes."""
