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
#ifdef _OPENMP
#include <omp.h>
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

// RMEETO_BY_FOUR: four rounds of a loop in one, for counting takes instructions, too.
#if defined(__clang__)
#define RMEETO_UNROLL _Pragma("clang loop unroll(full)")
#define RMEETO_BY_FOUR _Pragma("clang loop unroll_count(4)")
#else
#define RMEETO_UNROLL _Pragma("GCC unroll 32")
#define RMEETO_BY_FOUR _Pragma("GCC unroll 4")
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
#if RMEETO_LANES == 8
    return _mm256_movemask_ps((__m256)mask) != 0;
#elif RMEETO_LANES == 16
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#else
    int32_t lanes[kLanes], found = 0;
    memcpy(lanes, &mask, sizeof mask);
    for (int64_t i = 0; i < kLanes; ++i) found |= lanes[i];
    return found != 0;
#endif
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

// What a thread does that waits for a number in memory to change.
RMEETO_INLINE void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
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

// Bytes of scratch memory that a T of these takes, wherever it begins.
template <class T, class... Given>
inline int64_t bytes_of(const Given &...given) {
    Scratch measure(nullptr);
    const T measured(given..., measure);
    (void)measured;
    return measure.taken + 64;
}

RMEETO_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
RMEETO_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

inline int64_t thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

}  // namespace
