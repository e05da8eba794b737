"""The schedule of many runs on Ray: search space, two phases, seeds and statistics. Alone may import ray."""
