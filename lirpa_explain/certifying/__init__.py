"""From a call to a certificate: what is certified, by which traces, how it is proven, and how that
is checked.
"""
