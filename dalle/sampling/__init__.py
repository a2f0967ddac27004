"""From a prompt to ranked pictures."""
