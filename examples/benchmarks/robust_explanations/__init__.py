"""Training for explanations that can be certified, on the data sets of Wicker et al., ICLR 2023."""
