from .driver import report_fact as report_fact
from .result import FactReport as FactReport
from .settings import ReportSettings as ReportSettings
