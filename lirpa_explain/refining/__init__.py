"""Refining bounds by splitting balls into domains, as near to exact as time allows."""
