from .illusion import IllusionCheck as IllusionCheck
from .learning import learn_subspace as learn_subspace
from .pairs import draw_pairs as draw_pairs
from .pairs import split_pairs as split_pairs
from .scores import SubspaceScores as SubspaceScores
from .settings import SubspaceSettings as SubspaceSettings
from .subspace import Subspace as Subspace
from .sweep import measure_subspaces as measure_subspaces
