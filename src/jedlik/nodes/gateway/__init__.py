"""The gateway's decider takes requests, chooses workers, follows attempts and passes tokens on. Start at `node.py`."""
