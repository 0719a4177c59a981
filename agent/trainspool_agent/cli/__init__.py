"""The trainspool command line: parse, call, print, exit status; no logic."""
