"""Other projects' checkpoints, one file each."""
