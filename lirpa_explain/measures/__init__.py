"""What else can be certified: labels, radii, boundary points, distances to other attributions."""
