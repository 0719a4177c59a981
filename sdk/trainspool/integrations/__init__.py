"""Frameworks that log by callback: one module each, imported by name, which needs the framework and nothing else.

``trainspool.integrations.lightning``, ``.huggingface``, ``.keras``, ``.optuna``, ``.sklearn``; see
sdk/docs/integrations.md.
"""
