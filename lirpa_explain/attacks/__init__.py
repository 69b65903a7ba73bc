"""Attacks on explanations: the strongest change found, beside which every certified number stands."""

from .attack import AttackResult as AttackResult
from .attack import attack as attack
from .objectives import OBJECTIVES as OBJECTIVES
from .objectives import Objective as Objective
from .objectives import objective as objective
from .objectives import register as register
from .steps import SCHEDULES as SCHEDULES
