"""Files that other verifiers read and write: ONNX models and VNN-LIB properties."""

from .export import Exported as Exported
from .export import export as export
from .margins import MarginModule as MarginModule
from .models import load_onnx as load_onnx
from .properties import PROPERTIES as PROPERTIES
from .properties import Property as Property
from .replay import Replayed as Replayed
from .replay import replay as replay
