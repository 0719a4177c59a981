"""Where runs land: the MLflow file store, behind one small interface (changes.py)."""
