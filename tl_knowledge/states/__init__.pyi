from .decoded import DecodedStates as DecodedStates
from .decoding import decode_states as decode_states
from .settings import IDENTITY_PROMPT as IDENTITY_PROMPT
from .settings import DecodingSettings as DecodingSettings
from .writing import write_states as write_states
