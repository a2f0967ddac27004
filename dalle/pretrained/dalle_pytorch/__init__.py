"""Models of lucidrains/DALLE-pytorch, versions 0.9 to 1.6.6: their files read, and modules that
answer as they did."""
