"""What every script of this folder shares: the endpoint, and assertions that say what they saw."""

import os

GATEWAY = os.environ["GATEWAY"]
API_KEY = os.environ["API_KEY"]


def check(condition, what, seen=None):
    """Fails with a sentence and the value that was seen; never compiled away, unlike assert."""
    if not condition:
        raise SystemExit(f"FAILED: {what}; saw {seen!r}")


def done(name):
    print(f"ok {name}")
