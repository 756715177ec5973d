"""The command line, one file a command: its arguments, one call, what it prints.

A new command is a new file that ends with a `COMMAND`, and one line in `cli.py`.
"""
