// The exponential and what is made of it: sigmoid, softplus, and the decays of a scan. G vectors go in step everywhere:
// one polynomial alone is a chain of dependent instructions, and the processor's schedulers are too small to find the
// next independent chain behind it.
#pragma once
#include "simd.h"

namespace {

constexpr float kLog2e = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

// The numbers of an exponential, whole vectors in memory. `hidden` makes the compiler forget what the pointer points
// to: otherwise it pulls all of them out of the loops into registers, and spills the states instead.
struct ExpNumbers {
    V low, high, magic, near_magic, c[6];
};
#define RMEETO_EXP_NUMBERS(low, high, c5, c4, c3, c2, c1) \
    {RMEETO_SPLAT(low), RMEETO_SPLAT(high), RMEETO_SPLAT(12582912.0f + 126.0f), RMEETO_SPLAT(12582912.0f - 1.0f), \
     {RMEETO_SPLAT(c5), RMEETO_SPLAT(c4), RMEETO_SPLAT(c3), RMEETO_SPLAT(c2), RMEETO_SPLAT(c1), RMEETO_SPLAT(2.0f)}}
constexpr ExpNumbers kExp2 = RMEETO_EXP_NUMBERS(-126.0f, 129.0f, 2.652945462614298e-3f, 1.9343025982379913e-2f,
                                                1.1101467162370682e-1f, 4.8044484853744507e-1f, 1.3862940073013306f);
constexpr ExpNumbers kExp = RMEETO_EXP_NUMBERS(-87.3f, 89.0f, 1.6580630093812943e-2f, 8.379586040973663e-2f,
                                               3.333527147769928e-1f, 9.99983012676239e-1f, 1.9999995231628418f);

template <class T>
RMEETO_INLINE const T *hidden(const T *pointer) {
    asm("" : "+r"(pointer));
    return pointer;
}

// p <- (...(p f + c[0]) f + ...) f + c[N - 1]
template <int G, int N>
RMEETO_INLINE void horner(const V *c, const V *f, V *p) {
    RMEETO_UNROLL
    for (int k = 0; k < N; ++k)
        RMEETO_UNROLL
    for (int i = 0; i < G; ++i) p[i] = p[i] * f[i] + c[k];
}

// p = 2 * 2^f for |f| <= 1/2, or 2 * e^f for |f| <= ln 2 / 2: a polynomial of degree 5.
template <int G>
RMEETO_INLINE void polynomial(const ExpNumbers *c, const V *f, V *p) {
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) p[i] = c->c[0] * f[i] + c->c[1];
    horner<G, 4>(c->c + 2, f, p);
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
    const ExpNumbers *c = hidden(&kExp2);
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

// Where all exponents of a tile of the scan lie: what `decays` may leave out. Steps of trained models are short, and most
// tiles are shallow or low.
enum Reach {
    kAnywhere,
    kNear,     // no further from 0 than kNearest: nothing has to be cut off
    kLow,      // from -2 kShallowest to 0: the square of a shallow one
    kShallow,  // from -kShallowest to 0: a polynomial alone, no power of two beside it
};
constexpr float kNearest = 125.0f, kShallowest = 1.25f;

// The largest magnitude of what was seen, lane by lane: negative where any of it is, NaN where any is NaN or infinite.
struct Largest {
    V most = {}, odd = {};
    VI negative = {};
    RMEETO_INLINE void see(V x) {
        most = at_least(most, magnitude(x));
        odd += x * 0.0f;
        negative |= x < V{};
    }
    RMEETO_INLINE V found() const { return (negative ? -most : most) + odd; }
};

// Of exponents step * rate, by the `Largest` of the steps and of the rates' negatives. Depends on nothing but the numbers
// of one vector of channels.
inline Reach reach_of(V step, V rate) {
    const V zero = {}, farthest = step * rate;
    const VI falling = (rate >= zero) & (farthest >= zero);
    if (!any(~(falling & (farthest <= splat(kShallowest))))) return kShallow;
    if (!any(~(falling & (farthest <= splat(2 * kShallowest))))) return kLow;
    return any(~(magnitude(farthest) <= splat(kNearest))) ? kAnywhere : kNear;
}

// 2^x for x in [-kShallowest, 0] is a polynomial of degree 6 in kUnit x whose first coefficient is 1 and whose last is 1.
// It is 2^(x (1 + e)) with the least largest |e|, 5e-8 before rounding: decays near 1, which are multiplied by the
// thousand, are as good as others.
constexpr V kShallowNumbers[] = {RMEETO_SPLAT(2.61067224f), RMEETO_SPLAT(4.28832054f), RMEETO_SPLAT(5.402493f),
                                 RMEETO_SPLAT(5.08392572f), RMEETO_SPLAT(3.18871617f), RMEETO_SPLAT(1.0f)};
constexpr float kUnit = 0.217374995f;

template <int G>
RMEETO_INLINE void shallow(const V *f, V *p) {
    const V *c = hidden(kShallowNumbers);
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) p[i] = f[i] + c[0];
    horner<G, 5>(c + 1, f, p);
}

// A step in the unit that `decays` takes it in.
template <Reach R>
RMEETO_INLINE V in_units(V step) {
    if constexpr (R == kShallow) return step * kUnit;
    if constexpr (R == kLow) return step * (0.5f * kUnit);
    return step;
}

// a[i] = 2^(step rates[i]), for a step in_units<R>. Relative error below 2e-7, 2.1e-7 where exponents are shallow and
// 4.5e-7 where they are low.
template <int G, Reach R>
RMEETO_INLINE void decays(V step, const V *rates, V *a) {
    if constexpr (R == kNear) {  // the power's bits are added to those of the polynomial
        const ExpNumbers *c = hidden(&kExp2);
        V biased[G], f[G];
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) biased[i] = step * rates[i] + c->near_magic;
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) f[i] = step * rates[i] - (biased[i] - c->near_magic);
        polynomial<G>(c, f, a);
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) a[i] = (V)((VI)a[i] + ((VI)biased[i] << 23));
    } else if constexpr (R == kAnywhere) {
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) a[i] = step * rates[i];
        exp2s<G>(a);
    } else {
        V f[G];
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) f[i] = step * rates[i];
        shallow<G>(f, a);
        RMEETO_UNROLL
        for (int i = 0; R == kLow && i < G; ++i) a[i] *= a[i];
    }
}

// x <- e^x, with the same ends. Cody and Waite's two-part ln 2: a plain x * log2(e) would lose seven bits at x = 80.
// Falling: no x is above 0.
template <int G, bool Falling = false>
RMEETO_INLINE void exps(V *x) {
    const ExpNumbers *c = hidden(&kExp);
    V biased[G], p[G];
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) x[i] = at_least(c->low, x[i]);
    RMEETO_UNROLL
    for (int i = 0; !Falling && i < G; ++i) x[i] = at_most(c->high, x[i]);
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) biased[i] = x[i] * kLog2e + c->magic;
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) {
        const V n = biased[i] - c->magic;
        x[i] = (x[i] - n * 0.693359375f) + n * 2.12194440e-4f;
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
    for (int i = 0; i < G; ++i) t[i] = -magnitude(x[i]);
    exps<G, true>(t);
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
        x[i] = at_least(zero, x[i]) + (2.0f * q + q * w * p);
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

}  // namespace
