// Chooses the instruction set once, at run time, and offers the C functions that Python calls.
#include "rmeeto.h"

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

const Kernels &choose() {
#if defined(RMEETO_HAVE_AVX2) || defined(RMEETO_HAVE_AVX512)
    __builtin_cpu_init();
#endif
#ifdef RMEETO_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return avx512;
#endif
#ifdef RMEETO_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2;
#endif
    return baseline;
}

const Kernels &chosen() {
    static const Kernels &kernels = choose();
    return kernels;
}

}  // namespace
}  // namespace rmeeto

using namespace rmeeto;

// Raised whenever a call structure changes, so that an old library is never fed a new one.
RMEETO_EXPORT int64_t rmeeto_abi() { return 1; }

RMEETO_EXPORT const char *rmeeto_isa() { return chosen().name; }

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

RMEETO_EXPORT int rmeeto_scan_forward(const void *call) {
    return chosen().scan_forward(*static_cast<const ScanForward *>(call));
}
RMEETO_EXPORT int rmeeto_scan_backward(const void *call) {
    return chosen().scan_backward(*static_cast<const ScanBackward *>(call));
}
RMEETO_EXPORT int rmeeto_conv_forward(const void *call) {
    return chosen().conv_forward(*static_cast<const ConvForward *>(call));
}
RMEETO_EXPORT int rmeeto_conv_backward(const void *call) {
    return chosen().conv_backward(*static_cast<const ConvBackward *>(call));
}
RMEETO_EXPORT void rmeeto_map(int64_t function, int64_t count, const float *x, float *y) {
    chosen().map(function, count, x, y);
}
