"""The nearest point where a decision changes: searched for, bounded from below, and enclosed while the input moves."""
