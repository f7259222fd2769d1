"""The commands of `flashdiff`, one module each. Names and paths are checked here before torch loads; cli.py parses."""
