"""CLIP-GEN: text to image, trained on pictures alone, behind the vectors of a frozen CLIP."""
