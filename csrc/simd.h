// Vectors of floats, written with the compilers' vector extension so that one source serves AVX-512, AVX2, NEON and
// the baseline. Included by one object per instruction set: everything lives in an unnamed namespace, and nothing of
// the standard library's templates is used, so that the linker can never swap code between instruction sets.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__AVX512F__)
#define RMEETO_LANES 16
#elif defined(__AVX__)
#define RMEETO_LANES 8
#else
#define RMEETO_LANES 4
#endif

#if defined(__clang__)
#define RMEETO_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RMEETO_UNROLL _Pragma("GCC unroll 32")
#endif
#define RMEETO_INLINE inline __attribute__((always_inline))

namespace {

constexpr int64_t kLanes = RMEETO_LANES;
typedef float V __attribute__((vector_size(RMEETO_LANES * 4)));
typedef int32_t VI __attribute__((vector_size(RMEETO_LANES * 4)));

RMEETO_INLINE V splat(float x) { return V{} + x; }

RMEETO_INLINE V load(const float *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}

RMEETO_INLINE void store(float *p, V v) { memcpy(p, &v, sizeof v); }

// The first `count` lanes of a row; the others are zero.
RMEETO_INLINE V load(const float *p, int64_t count) {
    if (count >= kLanes) return load(p);
    alignas(64) float lanes[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
    return load(lanes);
}

RMEETO_INLINE void store(float *p, V v, int64_t count) {
    if (count >= kLanes) return store(p, v);
    alignas(64) float lanes[kLanes];
    store(lanes, v);
    for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

// A fixed tree, so that the sum does not depend on the compiler's mood.
RMEETO_INLINE float sum(V v) {
    alignas(64) float lanes[kLanes];
    store(lanes, v);
    for (int64_t half = kLanes / 2; half > 0; half /= 2)
        for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

// 2^(n + f) for |f| <= 1/2, where the low bits of `biased` hold n + 126. A polynomial of degree 5 gives 2 * 2^f and the
// bits give 2^(n-1): halving the power and doubling the polynomial keeps results between 2^127.5 and 2^128 finite.
RMEETO_INLINE V power(V biased, V f) {
    V p = 2.652945462614298e-3f * f + 1.9343025982379913e-2f;
    p = p * f + 1.1101467162370682e-1f;
    p = p * f + 4.8044484853744507e-1f;
    p = p * f + 1.3862940073013306f;
    p = p * f + 2.0f;
    return p * (V)((VI)biased << 23);
}

constexpr float kMagic = 12582912.0f + 126.0f;  // 1.5 * 2^23: adding it rounds to an integer; 126: see power
constexpr float kLog2e = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

// 2^x. Relative error below 2e-7 for x in [-125.5, 128); above: infinity; below: exactly 0 (results under 1.7e-38
// are flushed, no subnormals); NaN stays NaN; 2^0 is exactly 1.
RMEETO_INLINE V exp2v(V x) {
    const V low = splat(-126.0f), high = splat(129.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const V t = x + kMagic;
    return power(t, x - (t - kMagic));
}

// e^x, with the same ends. Cody and Waite's two-part ln 2: a plain x * log2(e) would lose seven bits at x = 80.
RMEETO_INLINE V expv(V x) {
    const V low = splat(-87.3f), high = splat(89.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const V t = x * kLog2e + kMagic;
    const V n = t - kMagic;
    return power(t, ((x - n * 0.693359375f) + n * 2.12194440e-4f) * kLog2e);
}

RMEETO_INLINE V sigmoid(V x) { return 1.0f / (1.0f + expv(-x)); }

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|), with log1p(t) = 2 atanh(t / (2 + t)): exact in relative terms for very
// negative x, and equal to x above torch's threshold of 20.
RMEETO_INLINE V softplus(V x) {
    const V zero = {};
    const V t = expv(x < zero ? x : -x);
    const V q = t / (2.0f + t);
    const V w = q * q;
    V p = 2.80119925737381e-1f * w + 2.8001803159713745e-1f;
    p = p * w + 4.002152681350708e-1f;
    p = p * w + 6.66664183139801e-1f;
    return (x > zero ? x : zero) + (2.0f * q + q * w * p);
}

// Scratch memory on a 64-byte boundary, freed at the end of the scope.
struct Scratch {
    void *block = nullptr;
    char *next = nullptr;
    explicit Scratch(int64_t bytes) : block(malloc(bytes + 64)) {
        if (block) next = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(block) + 63) & ~uintptr_t(63));
    }
    ~Scratch() { free(block); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
    V *vectors(int64_t count) {
        char *taken = next;
        next += (count * int64_t(sizeof(V)) + 63) / 64 * 64;
        return reinterpret_cast<V *>(taken);
    }
};

RMEETO_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
RMEETO_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace
