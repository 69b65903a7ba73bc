"""Attacks on explanations: the strongest change found, beside which every certified number
stands.
"""

from .attack import AttackResult as AttackResult
from .attack import attack as attack
from .objectives import OBJECTIVES as OBJECTIVES
from .objectives import Objective as Objective
from .objectives import objective as objective
from .objectives import register as register
from .sandwich import SANDWICHES as SANDWICHES
from .sandwich import Sandwich as Sandwich
from .sandwich import couple as couple
from .sandwich import sandwich as sandwich
from .steps import SCHEDULES as SCHEDULES
