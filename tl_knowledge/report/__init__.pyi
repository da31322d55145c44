from .driver import report_fact as report_fact
from .relation import RelationReport as RelationReport
from .relation import report_relation as report_relation
from .result import FactReport as FactReport
from .settings import ReportSettings as ReportSettings
