"""Text and pictures to tokens and back."""
