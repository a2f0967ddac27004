"""Systems composed of what stands below: no model, loop or pipeline of their own."""
