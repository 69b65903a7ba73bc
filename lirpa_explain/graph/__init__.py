"""From a function to its gradient as a module of bound operators."""

from .capture import capture as capture
from .capture import capture_program as capture_program
from .capture import reads_alike as reads_alike
from .module import GradientModule as GradientModule
from .program import Program as Program
