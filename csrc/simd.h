// Vectors of floats, written with the compilers' vector extension so that one source serves AVX-512, AVX2, NEON and
// the baseline. Included by one object per instruction set: everything lives in an unnamed namespace, and nothing of
// the standard library's templates is used, so that the linker can never swap code between instruction sets.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// RMEETO_SPLAT: a constant vector that is data in the file, for no code may run before the instruction set is known.
#define RMEETO_4(x) x, x, x, x
#if defined(__AVX512F__)
#define RMEETO_LANES 16
#define RMEETO_SPLAT(x) {RMEETO_4(x), RMEETO_4(x), RMEETO_4(x), RMEETO_4(x)}
#elif defined(__AVX__)
#define RMEETO_LANES 8
#define RMEETO_SPLAT(x) {RMEETO_4(x), RMEETO_4(x)}
#else
#define RMEETO_LANES 4
#define RMEETO_SPLAT(x) {RMEETO_4(x)}
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

// From memory this is one load, where V{} + x would be three steps.
RMEETO_INLINE V splat(float x) { return V RMEETO_SPLAT(x); }

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

template <int... I>
struct Indices {};
#if RMEETO_LANES == 16
typedef Indices<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15> AllLanes;
#elif RMEETO_LANES == 8
typedef Indices<0, 1, 2, 3, 4, 5, 6, 7> AllLanes;
#else
typedef Indices<0, 1, 2, 3> AllLanes;
#endif

// Neighbours W lanes apart added up: lanes without the bit W hold sums of a, the others of b.
template <int W, int... I>
RMEETO_INLINE V fold(V a, V b, Indices<I...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, ((I & W ? RMEETO_LANES : 0) + (I & ~W))...) +
           __builtin_shufflevector(a, b, ((I & W ? RMEETO_LANES : 0) + (I | W))...);
#else
    return __builtin_shuffle(a, b, VI{((I & W ? RMEETO_LANES : 0) + (I & ~W))...}) +
           __builtin_shuffle(a, b, VI{((I & W ? RMEETO_LANES : 0) + (I | W))...});
#endif
}

// Lane i of the result is the sum of the lanes of v[i], added in a fixed tree. N vectors are left to fold; W * N = kLanes.
template <int W, int N>
struct LaneSums {
    static RMEETO_INLINE V of(V *v) {
        RMEETO_UNROLL
        for (int i = 0; i < N / 2; ++i) v[i] = fold<W>(v[2 * i], v[2 * i + 1], AllLanes());
        return LaneSums<2 * W, N / 2>::of(v);
    }
};
template <int W>
struct LaneSums<W, 1> {
    static RMEETO_INLINE V of(V *v) { return v[0]; }
};

// out[i] = sum of the lanes of rows[i]. Works in steps of kLanes rows, which must be there and may be anything; out may be
// the memory of rows itself: it never overtakes the reading.
inline void lane_sums(const V *rows, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i += kLanes) {
        V v[kLanes];
        RMEETO_UNROLL
        for (int j = 0; j < kLanes; ++j) v[j] = rows[i + j];
        store(out + i, LaneSums<1, kLanes>::of(v));
    }
}

template <int W, int... I>
RMEETO_INLINE void exchange(V *a, V *b, Indices<I...>) {
    const V first = *a, second = *b;
#if defined(__clang__) || __GNUC__ >= 12
    *a = __builtin_shufflevector(first, second, (I & W ? RMEETO_LANES + (I & ~W) : I)...);
    *b = __builtin_shufflevector(first, second, (I & W ? RMEETO_LANES + I : (I | W))...);
#else
    *a = __builtin_shuffle(first, second, VI{(I & W ? RMEETO_LANES + (I & ~W) : I)...});
    *b = __builtin_shuffle(first, second, VI{(I & W ? RMEETO_LANES + I : (I | W))...});
#endif
}

// kLanes vectors: rows become columns.
template <int W>
RMEETO_INLINE void transpose(V *v) {
    if constexpr (W < RMEETO_LANES) {
        RMEETO_UNROLL
        for (int i = 0; i < RMEETO_LANES; ++i)
            if (!(i & W)) exchange<W>(v + i, v + (i | W), AllLanes());
        transpose<2 * W>(v);
    }
}

RMEETO_INLINE bool any(VI mask) {
    int32_t lanes[kLanes], found = 0;
    memcpy(lanes, &mask, sizeof mask);
    for (int64_t i = 0; i < kLanes; ++i) found |= lanes[i];
    return found != 0;
}

// max and min that let NaN through in x. x86 has one instruction for each, which returns its second operand where one is
// NaN, but GCC does not find it behind the comparison without -ffinite-math-only.
RMEETO_INLINE V at_least(V low, V x) {
#if defined(__AVX512F__)
    return _mm512_max_ps(low, x);
#elif defined(__AVX__)
    return _mm256_max_ps(low, x);
#elif defined(__SSE__)
    return _mm_max_ps(low, x);
#else
    return x < low ? low : x;
#endif
}

RMEETO_INLINE V at_most(V high, V x) {
#if defined(__AVX512F__)
    return _mm512_min_ps(high, x);
#elif defined(__AVX__)
    return _mm256_min_ps(high, x);
#elif defined(__SSE__)
    return _mm_min_ps(high, x);
#else
    return x > high ? high : x;
#endif
}

RMEETO_INLINE V magnitude(V x) { return (V)((VI)x & 0x7fffffff); }

constexpr float kLog2e = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

// The numbers of the exponential, whole vectors in memory. `hidden` makes the compiler forget what the pointer points
// to: otherwise it pulls all of them out of the loops into registers, and spills the states instead.
struct ExpNumbers {
    V low, high, magic, near_magic, c5, c4, c3, c2, c1, c0;
};
constexpr ExpNumbers kExp = {RMEETO_SPLAT(-126.0f),
                             RMEETO_SPLAT(129.0f),
                             RMEETO_SPLAT(12582912.0f + 126.0f),
                             RMEETO_SPLAT(12582912.0f - 1.0f),
                             RMEETO_SPLAT(2.652945462614298e-3f),
                             RMEETO_SPLAT(1.9343025982379913e-2f),
                             RMEETO_SPLAT(1.1101467162370682e-1f),
                             RMEETO_SPLAT(4.8044484853744507e-1f),
                             RMEETO_SPLAT(1.3862940073013306f),
                             RMEETO_SPLAT(2.0f)};

template <class T>
RMEETO_INLINE const T *hidden(const T *pointer) {
    asm("" : "+r"(pointer));
    return pointer;
}

// p = 2 * 2^f for |f| <= 1/2, a polynomial of degree 5. G of them go in step: one alone is a chain of dependent
// instructions, and the processor's schedulers are too small to find the next independent chain behind it.
template <int G>
RMEETO_INLINE void polynomial(const ExpNumbers *c, const V *f, V *p) {
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) p[i] = c->c5 * f[i] + c->c4;
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) p[i] = p[i] * f[i] + c->c3;
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) p[i] = p[i] * f[i] + c->c2;
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) p[i] = p[i] * f[i] + c->c1;
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) p[i] = p[i] * f[i] + c->c0;
}

// p = 2^(n + f) for |f| <= 1/2, where the low bits of `biased` hold n + 126: magic = 1.5 * 2^23 + 126 rounded it there.
// The bits give 2^(n-1): halving the power and doubling the polynomial keeps results between 2^127.5 and 2^128 finite.
template <int G>
RMEETO_INLINE void power(const ExpNumbers *c, const V *biased, const V *f, V *p) {
    polynomial<G>(c, f, p);
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) p[i] *= (V)((VI)biased[i] << 23);
}

// x <- 2^x. Relative error below 2e-7 for x in [-125.5, 128); above: infinity; below: exactly 0 (results under 1.7e-38
// are flushed, no subnormals); NaN stays NaN; 2^0 is exactly 1.
template <int G>
RMEETO_INLINE void exp2s(V *x) {
    const ExpNumbers *c = hidden(&kExp);
    V biased[G], p[G];
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) x[i] = at_least(c->low, x[i]);
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) x[i] = at_most(c->high, x[i]);
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) biased[i] = x[i] + c->magic;
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) x[i] -= biased[i] - c->magic;
    power<G>(c, biased, x, p);
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) x[i] = p[i];
}

// a[i] = 2^(step rates[i]). Near: the caller knows that no exponent is further from 0 than kNear, or NaN; then nothing has
// to be cut off, and the power's bits can be added to those of the polynomial. The same error.
constexpr float kNear = 125.0f;

template <int G, bool Near>
RMEETO_INLINE void decays(V step, const V *rates, V *a) {
    const ExpNumbers *c = hidden(&kExp);
    if constexpr (Near) {
        V biased[G], f[G];
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) biased[i] = step * rates[i] + c->near_magic;
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) f[i] = step * rates[i] - (biased[i] - c->near_magic);
        polynomial<G>(c, f, a);
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) a[i] = (V)((VI)a[i] + ((VI)biased[i] << 23));
    } else {
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) a[i] = step * rates[i];
        exp2s<G>(a);
    }
}

// x <- e^x, with the same ends. Cody and Waite's two-part ln 2: a plain x * log2(e) would lose seven bits at x = 80.
template <int G>
RMEETO_INLINE void exps(V *x) {
    const ExpNumbers *c = hidden(&kExp);
    V biased[G], p[G];
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) x[i] = at_most(splat(89.0f), at_least(splat(-87.3f), x[i]));
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) biased[i] = x[i] * kLog2e + c->magic;
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) {
        const V n = biased[i] - c->magic;
        x[i] = ((x[i] - n * 0.693359375f) + n * 2.12194440e-4f) * kLog2e;
    }
    power<G>(c, biased, x, p);
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) x[i] = p[i];
}

// x <- 1 / (1 + e^-x)
template <int G>
RMEETO_INLINE void sigmoids(V *x) {
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) x[i] = -x[i];
    exps<G>(x);
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) x[i] = 1.0f / (1.0f + x[i]);
}

// x <- log(1 + e^x) = max(x, 0) + log1p(e^-|x|), with log1p(t) = 2 atanh(t / (2 + t)): exact in relative terms for very
// negative x, and equal to x above torch's threshold of 20.
// Sloped: and its derivative, 1 / (1 + e^-x), from the same exponential.
template <int G, bool Sloped>
RMEETO_INLINE void sloped_softpluses(V *x, V *slopes) {
    const V zero = {}, one = V RMEETO_SPLAT(1.0f);
    V t[G];
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) t[i] = x[i] < zero ? x[i] : -x[i];
    exps<G>(t);
    RMEETO_UNROLL
    for (int i = 0; Sloped && i < G; ++i) slopes[i] = (x[i] < zero ? t[i] : one) / (1.0f + t[i]);
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) t[i] /= 2.0f + t[i];
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) {
        const V q = t[i], w = q * q;
        V p = 2.80119925737381e-1f * w + 2.8001803159713745e-1f;
        p = p * w + 4.002152681350708e-1f;
        p = p * w + 6.66664183139801e-1f;
        x[i] = (x[i] > zero ? x[i] : zero) + (2.0f * q + q * w * p);
    }
}

template <int G>
RMEETO_INLINE void softpluses(V *x) {
    sloped_softpluses<G, false>(x, nullptr);
}

// How many go in step: what the registers hold.
constexpr int kInStep = kLanes == 16 ? 8 : 4;

// A function of G vectors applied to `count` of them; the array must have room for a multiple of kInStep.
template <void (*F)(V *)>
RMEETO_INLINE void apply(V *x, int64_t count) {
    for (int64_t t = 0; t < count; t += kInStep) {
        V group[kInStep];
        RMEETO_UNROLL
        for (int i = 0; i < kInStep; ++i) group[i] = x[t + i];
        F(group);
        RMEETO_UNROLL
        for (int i = 0; i < kInStep; ++i) x[t + i] = group[i];
    }
}

RMEETO_INLINE char *aligned(void *memory) {
    return reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(memory) + 63) & ~uintptr_t(63));
}

// Scratch memory on a 64-byte boundary, freed at the end of the scope where it is not somebody else's. Of nobody's memory,
// null, it gives null, and counts: so much is needed.
struct Scratch {
    void *block = nullptr;
    char *next = nullptr;
    int64_t taken = 0;  // bytes
    explicit Scratch(int64_t bytes) : block(malloc(bytes + 64)) {
        if (block) next = aligned(block);
    }
    explicit Scratch(void *others) : next(aligned(others)) {}
    ~Scratch() { free(block); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
    template <class T>
    T *array(int64_t count) {
        const int64_t bytes = (count * int64_t(sizeof(T)) + 63) / 64 * 64;
        char *const place = next;
        taken += bytes;
        if (next) next += bytes;
        return reinterpret_cast<T *>(place);
    }
    V *vectors(int64_t count) { return array<V>(count); }
};

RMEETO_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
RMEETO_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace
