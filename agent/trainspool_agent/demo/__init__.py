"""The demo: a real small training, logged live, and what came of it on screen."""
