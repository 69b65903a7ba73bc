"""What can be certified beside an attribution: labels, radii, boundary points and distances to
other attributions.
"""
