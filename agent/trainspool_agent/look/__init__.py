"""Looking at spools, streams and runs for the command line; changes nothing and needs no agent."""
