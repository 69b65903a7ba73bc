"""Where a model's decision changes: the decision, and the search for its nearest boundary."""
