"""Dependent axes: which axes of weights, activations, inputs and outputs must be cut together."""

from .axis import Axis as Axis
from .axis import Hold as Hold
from .axis import Mask as Mask
from .axis import Role as Role
from .axis import Why as Why
from .axis import kept as kept
from .axis import length as length
from .axis import places as places
from .dependency import Dependencies as Dependencies
from .dependency import Group as Group
from .dependency import dependencies as dependencies
from .following import TARGETS as TARGETS
from .following import Target as Target
from .following import Teller as Teller
from .following import target_of as target_of
from .following import teller as teller
