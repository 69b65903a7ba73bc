"""How far apart two computations of the same number may be: one table for each kind of computation.

All are relative to the largest number that takes part. None is for the gap of a method: quadrature,
finite differences and sampled truths state their own, where they are used.
"""

import torch

#: A value outside its certified bounds, or two ways to the same bound: roundings of a whole net.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}

#: Smallest size that ROUNDING is relative to: smaller values are sums of larger terms that cancel.
SMALLEST = 1e-3

#: The same for one bound operator, where few numbers are added: it sees a box of width 1e-12.
FEW_ROUNDINGS = 2e-14

#: A line above or below one function of one variable, relative to the terms of the line.
LINE = {torch.float64: 1e-12, torch.float32: 3e-6}

#: Ranges and planes of a product of two numbers, in float64: a few roundings of its terms.
PRODUCT = 1e-13
