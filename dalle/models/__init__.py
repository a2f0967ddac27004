"""The models: each file has a config, a module and an output."""
