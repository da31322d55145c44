from .adding import add_vector as add_vector
from .estimate import estimate_relation as estimate_relation
from .measure import measure_relation_maps as measure_relation_maps
from .relation_map import RelationMap as RelationMap
from .scores import RelationMapScores as RelationMapScores
from .settings import RelationMapSettings as RelationMapSettings
