"""The operators of a Vision Mamba and of token merging, each behind one face.

Selective scan, causal convolution, both with their projections as one bidirectional core, the linear layer, the norm;
and the steps of a merge: who is most like whom, the new place of every token, the merged values.

Every op has a reference in plain PyTorch (the law for outputs and gradients) and a native CPU kernel; the scan and the
convolution, whose references are loops, have Triton kernels for GPUs, too. With kernels an op is the torch op
`rmeeto::<name>`, so torch.compile and torch.export see one node and the FLOP counter knows its cost.
"""

from rmeeto.ops._library import NativeInfo, instruction_sets, native_info, use_instruction_set
from rmeeto.ops.backends import BackendReport, SlowPathWarning, report, use_backend
from rmeeto.ops.bimamba import Direction, bimamba
from rmeeto.ops.bipartite_merge import Merged, Merging, bipartite_merge
from rmeeto.ops.block import Blocked, BlockWeights, Stacked, block, blocks, merged_block
from rmeeto.ops.causal_conv import causal_conv
from rmeeto.ops.linear import linear
from rmeeto.ops.rms_norm import rms_norm
from rmeeto.ops.selective_scan import selective_scan
from rmeeto.ops.token_match import Match, token_match
from rmeeto.ops.token_merge import token_merge
from rmeeto.ops.token_plan import token_plan

__all__ = [
    "BackendReport",
    "BlockWeights",
    "Blocked",
    "Direction",
    "Match",
    "Merged",
    "Merging",
    "NativeInfo",
    "SlowPathWarning",
    "Stacked",
    "bimamba",
    "bipartite_merge",
    "block",
    "blocks",
    "causal_conv",
    "instruction_sets",
    "linear",
    "merged_block",
    "native_info",
    "report",
    "rms_norm",
    "selective_scan",
    "token_match",
    "token_merge",
    "token_plan",
    "use_backend",
    "use_instruction_set",
]
