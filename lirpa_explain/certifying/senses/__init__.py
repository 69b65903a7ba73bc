"""The senses in which an attribution can be certified: a file each, and a row of `SENSES`."""

from .expectation import Expectation as Expectation
from .finite import FiniteSum as FiniteSum
from .integral import Integral as Integral
from .nearest import NearestBoundary as NearestBoundary
from .sense import Proven as Proven
from .sense import Sense as Sense
from .table import SENSES as SENSES
from .table import sense_of as sense_of
