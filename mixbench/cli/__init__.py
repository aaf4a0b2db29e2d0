"""The command line: one file a verb; the only package that prints or reads the environment."""
