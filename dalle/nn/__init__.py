"""Layers: tensor in, tensor out."""
