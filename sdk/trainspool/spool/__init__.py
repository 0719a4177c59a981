"""The spool format: the contract between training code and agent (sdk/docs/spool-format.md).

The agent imports this package and ``trainspool.errors`` and nothing else of the SDK.
"""
