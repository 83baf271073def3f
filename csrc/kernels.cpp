// Compiled once per instruction set, with RMEETO_ISA naming the table of functions and RMEETO_ISA_NAME its words.
#include "block_backward.h"
#include "block_forward.h"

#ifndef RMEETO_ISA
#error "RMEETO_ISA names the instruction set, see CMakeLists.txt"
#endif

namespace {

template <void (*F)(V *)>
void map_with(int64_t count, const float *x, float *y) {
    for (int64_t i = 0; i < count; i += kLanes) {
        V v = load(x + i, count - i);
        F(&v);
        store(y + i, v, count - i);
    }
}

template <Reach R>
void decay(V *x) {
    const V rate = splat(1.0f);
    decays<1, R>(in_units<R>(*x), &rate, x);
}

void map(int64_t function, int64_t count, const float *x, float *y) {
    switch (function) {
        case 0: return map_with<exp2s<1>>(count, x, y);
        case 1: return map_with<exps<1>>(count, x, y);
        case 2: return map_with<softpluses<1>>(count, x, y);
        case 3: return map_with<sigmoids<1>>(count, x, y);
        case 4: return map_with<decay<kNear>>(count, x, y);
        case 5: return map_with<decay<kLow>>(count, x, y);
        default: return map_with<decay<kShallow>>(count, x, y);
    }
}

}  // namespace

namespace rmeeto {
extern const Kernels RMEETO_ISA;
const Kernels RMEETO_ISA = {RMEETO_ISA_NAME, scan_forward,  scan_backward,   conv_forward,  conv_backward,
                           norm_forward,    norm_backward, weight_gradient, block_forward, block_backward,
                           token_match,     token_plan,    token_merge,     token_merge_backward,
                           bipartite_merge, map};
}  // namespace rmeeto
