"""``python -m trainspool_agent ...`` is the command line."""

from trainspool_agent.cli import main

if __name__ == "__main__":
    main(prog_name="trainspool")
