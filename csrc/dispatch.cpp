// Chooses the instruction set once, at run time, and offers the C functions that Python calls.
#include "rmeeto.h"

#include <cstdlib>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace rmeeto {

extern const Kernels baseline;
#ifdef RMEETO_HAVE_AVX2
extern const Kernels avx2;
#endif
#ifdef RMEETO_HAVE_AVX512
extern const Kernels avx512;
#endif

namespace {

constexpr int64_t kMostKept = int64_t(64) << 20;  // bytes; more than that is given back by the next smaller call

bool can_run(const Kernels &kernels) {
#if defined(RMEETO_HAVE_AVX2) || defined(RMEETO_HAVE_AVX512)
    __builtin_cpu_init();
#endif
#ifdef RMEETO_HAVE_AVX512
    if (&kernels == &avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#endif
#ifdef RMEETO_HAVE_AVX2
    if (&kernels == &avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return &kernels == &baseline;
}

// Best first.
const Kernels *const compiled[] = {
#ifdef RMEETO_HAVE_AVX512
    &avx512,
#endif
#ifdef RMEETO_HAVE_AVX2
    &avx2,
#endif
    &baseline,
};

const Kernels *choose() {
    for (const Kernels *kernels : compiled)
        if (can_run(*kernels)) return kernels;
    return &baseline;
}

const Kernels *&current() {
    static const Kernels *kernels = choose();
    return kernels;
}

const Kernels &chosen() { return *current(); }

// What one thread keeps. Asking the system anew in every call would cost a page fault for each 4 KiB, more than some
// kernels themselves.
struct Kept {
    void *block = nullptr;
    int64_t bytes = 0;
    ~Kept() { free(block); }
};

}  // namespace

void *kept_scratch(int64_t bytes) {
    thread_local Kept kept;
    const bool wasteful = kept.bytes > kMostKept && bytes <= kMostKept;
    if (bytes > kept.bytes || wasteful) {
        free(kept.block);
        kept.block = malloc(bytes);
        kept.bytes = kept.block ? bytes : 0;
    }
    return kept.block;
}

void give_way() { std::this_thread::yield(); }

}  // namespace rmeeto

using namespace rmeeto;

// Raised whenever a call structure changes, so that an old library is never fed a new one.
RMEETO_EXPORT int64_t rmeeto_abi() { return 9; }

RMEETO_EXPORT const char *rmeeto_isa() { return chosen().name; }

// The instruction sets that were compiled in, best first, and whether this processor has them.
RMEETO_EXPORT int64_t rmeeto_isa_count() { return sizeof compiled / sizeof *compiled; }
RMEETO_EXPORT const char *rmeeto_isa_name(int64_t index) { return compiled[index]->name; }
RMEETO_EXPORT int64_t rmeeto_isa_runs(int64_t index) { return can_run(*compiled[index]); }
RMEETO_EXPORT void rmeeto_isa_use(int64_t index) { current() = compiled[index]; }

RMEETO_EXPORT int64_t rmeeto_openmp() {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

RMEETO_EXPORT const char *rmeeto_compiler() {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}

// Size of the kept chunk-start states: tokens per chunk and the multiple that channels are padded to.
RMEETO_EXPORT int64_t rmeeto_chunk() { return kChunk; }
RMEETO_EXPORT int64_t rmeeto_channel_pad() { return kChannelPad; }

RMEETO_EXPORT int rmeeto_scan_forward(const void *calls, int64_t count) {
    return chosen().scan_forward(static_cast<const ScanForward *>(calls), count);
}
RMEETO_EXPORT int rmeeto_scan_backward(const void *calls, int64_t count) {
    return chosen().scan_backward(static_cast<const ScanBackward *>(calls), count);
}
RMEETO_EXPORT int rmeeto_conv_forward(const void *calls, int64_t count) {
    return chosen().conv_forward(static_cast<const ConvForward *>(calls), count);
}
RMEETO_EXPORT int rmeeto_conv_backward(const void *calls, int64_t count) {
    return chosen().conv_backward(static_cast<const ConvBackward *>(calls), count);
}
RMEETO_EXPORT int rmeeto_norm_forward(const void *calls, int64_t count) {
    return chosen().norm_forward(static_cast<const NormForward *>(calls), count);
}
RMEETO_EXPORT int rmeeto_norm_backward(const void *calls, int64_t count) {
    return chosen().norm_backward(static_cast<const NormBackward *>(calls), count);
}
RMEETO_EXPORT int rmeeto_weight_gradient(const void *calls, int64_t count) {
    return chosen().weight_gradient(static_cast<const WeightGradient *>(calls), count);
}
RMEETO_EXPORT int rmeeto_block_forward(const void *calls, int64_t count) {
    return chosen().block_forward(static_cast<const BlockForward *>(calls), count);
}
RMEETO_EXPORT int rmeeto_block_backward(const void *calls, int64_t count) {
    return chosen().block_backward(static_cast<const BlockBackward *>(calls), count);
}
RMEETO_EXPORT int rmeeto_token_match(const void *calls, int64_t count) {
    return chosen().token_match(static_cast<const TokenMatch *>(calls), count);
}
RMEETO_EXPORT int rmeeto_token_plan(const void *calls, int64_t count) {
    return chosen().token_plan(static_cast<const TokenPlan *>(calls), count);
}
RMEETO_EXPORT int rmeeto_token_merge(const void *calls, int64_t count) {
    return chosen().token_merge(static_cast<const TokenMerge *>(calls), count);
}
RMEETO_EXPORT int rmeeto_token_merge_backward(const void *calls, int64_t count) {
    return chosen().token_merge_backward(static_cast<const TokenMergeBackward *>(calls), count);
}
RMEETO_EXPORT int rmeeto_bipartite_merge(const void *calls, int64_t count) {
    return chosen().bipartite_merge(static_cast<const BipartiteMerge *>(calls), count);
}
RMEETO_EXPORT void rmeeto_map(int64_t function, int64_t count, const float *x, float *y) {
    chosen().map(function, count, x, y);
}
