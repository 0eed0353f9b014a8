"""What a rented machine runs: an engine behind a door that only the panel opens.

It runs inside vLLM's image on Python's standard library alone, and knows nothing of the panel's code.
"""
