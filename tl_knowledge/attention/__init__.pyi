from .direct import DirectLogitAttribution as DirectLogitAttribution
from .direct import direct_logit_attribution as direct_logit_attribution
from .heads import AttentionAnalysis as AttentionAnalysis
from .heads import analyse_attention as analyse_attention
from .knockout import AttentionKnockout as AttentionKnockout
from .knockout import measure_attention_knockout as measure_attention_knockout
from .lens import LogitLens as LogitLens
from .lens import logit_lens as logit_lens
