"""From a function to its gradient as a module of bound operators."""

from .capture import capture as capture
from .module import GradientModule as GradientModule
