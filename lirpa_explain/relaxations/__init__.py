"""Linear bounds of elementary functions on boxes: plain tensor functions, no knowledge of
auto_LiRPA.
"""
