"""Where a model's decision changes: the decision, and the search for the nearest point of its
boundary.
"""
