// The gradients of the selective scan. States are recomputed chunk by chunk from the kept chunk-start states, in a
// buffer that stays in the first-level cache; no (batch, tokens, channels, state) tensor exists. With
//   g = dy silu(z),  dh_l = C_l g_l + a_{l+1} dh_{l+1},  a = exp(step A),  w = dh_l a_l h_{l-1}:
// dC = sum g h;  dB = sum dh drive;  d(drive) = sum dh B;  d(step) = sum w A;  dA = sum w step.
#pragma once
#include "scan.h"

namespace {

// One vector of channels during one chunk.
struct BackwardChunk {
    ScanInputs in;
    V g[kChunk], y[kChunk];            // gradient before the gate, output before the gate
    V gate[kChunk], slope[kChunk];     // sigmoid of z; of delta, the slope of softplus
    V ddrive[kChunk], dstep[kChunk];   // dstep lacks the factor ln 2
};

// A task's own memory. Sizes in vectors: state * lanes-groups for A, dh, dA; chunk * state for dB, dC.
struct BackwardScratch {
    V *A, *dh, *dA, *dB, *dC, *decay, *h;
    float *dD, *dbias;
};

// Recompute S states of a chunk, keeping the decay a_t and the state before every token; h has room for length + 1.
template <int S, bool Gated, bool Decays>
RMEETO_INLINE void recompute_tile(BackwardChunk &b, int64_t length, const V *A, const float *B, int64_t B_stride,
                                  const float *C, int64_t C_stride, const float *start, int64_t start_stride,
                                  V *decay, V *h) {
    V state[S];
    RMEETO_UNROLL
    for (int k = 0; k < S; ++k) h[k] = state[k] = load(start + k * start_stride);
    for (int64_t t = 0; t < length; ++t, B += B_stride, C += C_stride) {
        const V step = b.in.step[t], drive = b.in.drive[t];
        V even = {}, odd = {};
        decay += S;
        h += S;
        constexpr int G = S < kInStep ? S : kInStep;
        const V *rates = hidden(A);
        RMEETO_UNROLL
        for (int first = 0; first < S; first += G) {
            V a[G];
            RMEETO_UNROLL
            for (int k = 0; k < G; ++k) a[k] = step * rates[first + k];
            exp2s<G, Decays>(a);
            RMEETO_UNROLL
            for (int k = 0; k < G; ++k) {
                decay[first + k - S] = a[k];
                h[first + k] = state[first + k] = a[k] * state[first + k] + drive * B[first + k];
                if (Gated) (k % 2 ? odd : even) += state[first + k] * C[first + k];
            }
        }
        if (Gated) b.y[t] += even + odd;
    }
}

template <int S>
RMEETO_INLINE void sweep_tile(BackwardChunk &b, int64_t length, const V *A, const float *B, int64_t B_stride,
                              const float *C, int64_t C_stride, const V *decay, const V *h, V *dh, V *dA, V *dB,
                              V *dC, int64_t state) {
    V carry[S];
    RMEETO_UNROLL
    for (int k = 0; k < S; ++k) carry[k] = dh[k];
    for (int64_t t = length - 1; t >= 0; --t) {
        const float *Bt = B + t * B_stride, *Ct = C + t * C_stride;
        const V g = b.g[t], drive = b.in.drive[t], step = b.in.step[t];
        const V *decay_t = decay + t * S, *before = h + t * S, *after = before + S;
        V *dBt = dB + t * state, *dCt = dC + t * state;
        V ddrive = b.ddrive[t], dstep = b.dstep[t];
        RMEETO_UNROLL
        for (int k = 0; k < S; ++k) {
            const V d = carry[k] + g * Ct[k];
            dCt[k] += g * after[k];
            dBt[k] += d * drive;
            ddrive += d * Bt[k];
            carry[k] = d * decay_t[k];
            const V w = carry[k] * before[k];
            dA[k] += w * step;
            dstep += w * A[k];
        }
        b.ddrive[t] = ddrive;
        b.dstep[t] = dstep;
    }
    RMEETO_UNROLL
    for (int k = 0; k < S; ++k) dh[k] = carry[k];
}

struct Tile {
    int64_t first, length, state, vector;
    const float *start;  // kept states of this vector's channels
    int64_t start_stride;
};

template <int S, bool Gated, bool Decays>
inline void backward_tile(BackwardChunk &b, const ScanWalks &w, const Tile &tile, int64_t k, BackwardScratch &m) {
    const float *B = w.B.at(tile.first) + k, *C = w.C.at(tile.first) + k;
    const int64_t place = tile.vector * tile.state + k;
    recompute_tile<S, Gated, Decays>(b, tile.length, m.A + place, B, w.B.stride, C, w.C.stride,
                                     tile.start + k * tile.start_stride, tile.start_stride, m.decay, m.h);
    sweep_tile<S>(b, tile.length, m.A + place, B, w.B.stride, C, w.C.stride, m.decay, m.h, m.dh + place, m.dA + place,
                  m.dB + k, m.dC + k, tile.state);
}

template <bool Gated, bool Decays>
inline void backward_states(BackwardChunk &b, const ScanWalks &w, const Tile &tile, BackwardScratch &m) {
    int64_t k = 0;
    for (; k + 8 <= tile.state; k += 8) backward_tile<8, Gated, Decays>(b, w, tile, k, m);
    for (; k + 4 <= tile.state; k += 4) backward_tile<4, Gated, Decays>(b, w, tile, k, m);
    for (; k < tile.state; ++k) backward_tile<1, Gated, Decays>(b, w, tile, k, m);
}

// Where the gradients of one task go, in the order of the scan.
struct BackwardWalks {
    Walk<const float> dy;
    Walk<float> du, ddelta, dz, dB, dC, dtime;  // dB, dC, dtime: this task's partial sums
};

inline void prepare_chunk(const ScanBackward &c, const ScanWalks &w, const BackwardWalks &o, int64_t first,
                          int64_t length, int64_t channel, BackwardChunk &b) {
    const int64_t count = c.channels - channel;
    const Walk<const float> *inputs[] = {&w.u, &w.delta, &w.z, &o.dy};
    for (const auto *rows : inputs) fetch_ahead(*rows, first - kChunk, c.tokens, channel);
    read_inputs(c, w, first, length, channel, b.in);
    const V skip = c.D ? load(c.D + channel, count) : V{};
    if (w.z.data) read_sigmoids(w.z, first, length, channel, count, b.gate);
    for (int64_t t = 0; t < length; ++t) {
        b.g[t] = load(o.dy.at(first + t) + channel, count);
        if (w.z.data) b.g[t] *= load(w.z.at(first + t) + channel, count) * b.gate[t];
        b.y[t] = c.D ? skip * b.in.u[t] : V{};
        b.ddrive[t] = b.dstep[t] = V{};
    }
}

inline void finish_chunk(const ScanBackward &c, const ScanWalks &w, const BackwardWalks &o, int64_t first,
                         int64_t length, int64_t channel, BackwardChunk &b, V *dtime, V &dD, V &dbias) {
    const int64_t count = c.channels - channel;
    const V skip = c.D ? load(c.D + channel, count) : V{}, bias = c.bias ? load(c.bias + channel, count) : V{};
    if (c.softplus) {
        for (int64_t t = 0; t < length; ++t) b.slope[t] = load(w.delta.at(first + t) + channel, count) + bias;
        for (int64_t t = length; t % kInStep; ++t) b.slope[t] = V{};
        apply<sigmoids<kInStep>>(b.slope, length);
    }
    for (int64_t t = length - 1; t >= 0; --t) {
        const V u = b.in.u[t], dstep = b.dstep[t] * kLn2;
        const float time = w.time.data ? *w.time.at(first + t) : 1.0f;
        V ddelta = b.ddrive[t] * u + dstep * time;
        if (c.softplus) ddelta *= b.slope[t];
        dtime[t] += dstep * b.in.delta[t];
        dD += b.g[t] * u;
        dbias += ddelta;
        const V du = b.ddrive[t] * b.in.delta[t] + (c.D ? b.g[t] * skip : V{});
        if (c.du) store(o.du.at(first + t) + channel, du, count);
        if (c.ddelta) store(o.ddelta.at(first + t) + channel, ddelta, count);
        if (c.dz) {
            const V z = load(w.z.at(first + t) + channel, count), s = b.gate[t];
            const V dy = load(o.dy.at(first + t) + channel, count);
            store(o.dz.at(first + t) + channel, dy * b.y[t] * (s * (1.0f + z * (1.0f - s))), count);
        }
    }
}

// Partial sums of one backward call, added up in a fixed order at the end.
struct Partials {
    int64_t groups, padded;
    float *dB, *dC, *dtime;     // (batch, groups, tokens, state) or (batch, groups, tokens)
    float *dA, *dD, *dbias;     // (batch, state, padded) or (batch, padded)
};

inline void backward_task(const ScanBackward &c, const Partials &p, int64_t batch, int64_t group, BackwardScratch &m) {
    const int64_t channel_begin = group * kBackwardGroup;
    const int64_t vectors = ceil_div(smaller(kBackwardGroup, c.channels - channel_begin), kLanes);
    const int64_t chunks = ceil_div(c.tokens, kChunk), state = c.state, n = c.tokens, e = c.channels;
    bool decays = true;
    for (int64_t v = 0; v < vectors; ++v) {
        const int64_t channel = channel_begin + v * kLanes;
        decays &= transpose_A(c.A + channel * state, state, e - channel, m.A + v * state);
    }
    memset(m.dh, 0, vectors * state * sizeof(V));
    memset(m.dA, 0, vectors * state * sizeof(V));
    V dD[kBackwardGroup / kLanes] = {}, dbias[kBackwardGroup / kLanes] = {};
    const ScanWalks w(c, batch);
    const int64_t part = batch * p.groups + group;
    const BackwardWalks o{{c.dy, batch, n, c.reverse},
                          {rows(c.du, n, e), batch, n, c.reverse},
                          {rows(c.ddelta, n, e), batch, n, c.reverse},
                          {rows(c.dz, n, e), batch, n, c.reverse},
                          {rows(p.dB, n, state), part, n, c.reverse},
                          {rows(p.dC, n, state), part, n, c.reverse},
                          {rows(p.dtime, n, 1), part, n, c.reverse}};
    BackwardChunk b;
    V dtime[kChunk];
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
        const int64_t first = chunk * kChunk, length = smaller(kChunk, n - first);
        memset(m.dB, 0, length * state * sizeof(V));
        memset(m.dC, 0, length * state * sizeof(V));
        memset(dtime, 0, sizeof dtime);
        for (int64_t v = 0; v < vectors; ++v) {
            const int64_t channel = channel_begin + v * kLanes;
            prepare_chunk(c, w, o, first, length, channel, b);
            const Tile tile{first, length, state, v, kept_states(c.states, batch, chunks, chunk, state, e, channel),
                            p.padded};
            const bool gated = c.dz != nullptr;
            if (decays && b.in.forward_time)
                gated ? backward_states<true, true>(b, w, tile, m) : backward_states<false, true>(b, w, tile, m);
            else
                gated ? backward_states<true, false>(b, w, tile, m) : backward_states<false, false>(b, w, tile, m);
            finish_chunk(c, w, o, first, length, channel, b, dtime, dD[v], dbias[v]);
        }
        for (int64_t t = 0; t < length; ++t) {
            for (int64_t k = 0; p.dB && k < state; ++k) o.dB.at(first + t)[k] = sum(m.dB[t * state + k]);
            for (int64_t k = 0; p.dC && k < state; ++k) o.dC.at(first + t)[k] = sum(m.dC[t * state + k]);
            if (p.dtime) *o.dtime.at(first + t) = sum(dtime[t]);
        }
    }
    for (int64_t v = 0; v < vectors; ++v) {
        const int64_t channel = channel_begin + v * kLanes;
        for (int64_t k = 0; k < state; ++k)
            store(p.dA + (batch * state + k) * p.padded + channel, m.dA[v * state + k]);
        store(p.dD + batch * p.padded + channel, dD[v]);
        store(p.dbias + batch * p.padded + channel, dbias[v]);
    }
}

// out[j] = sum over i of parts[i * stride + j]
inline void add_up(float *out, const float *parts, int64_t count, int64_t stride, int64_t width) {
    memcpy(out, parts, width * sizeof(float));
    for (int64_t i = 1; i < count; ++i)
        for (int64_t j = 0; j < width; ++j) out[j] += parts[i * stride + j];
}

inline void add_partials(const ScanBackward &c, const Partials &p) {
    const int64_t n = c.tokens, s = c.state;
    for (int64_t b = 0; b < c.batch; ++b) {
        if (c.dB) add_up(c.dB + b * n * s, p.dB + b * p.groups * n * s, p.groups, n * s, n * s);
        if (c.dC) add_up(c.dC + b * n * s, p.dC + b * p.groups * n * s, p.groups, n * s, n * s);
        if (c.dtime) add_up(c.dtime + b * n, p.dtime + b * p.groups * n, p.groups, n, n);
    }
    for (int64_t channel = 0; channel < c.channels; ++channel) {
        for (int64_t k = 0; c.dA && k < s; ++k) {
            float total = 0;
            for (int64_t b = 0; b < c.batch; ++b) total += p.dA[(b * s + k) * p.padded + channel];
            c.dA[channel * s + k] = total;
        }
        float total_D = 0, total_bias = 0;
        for (int64_t b = 0; b < c.batch; ++b) {
            total_D += p.dD[b * p.padded + channel];
            total_bias += p.dbias[b * p.padded + channel];
        }
        if (c.dD) c.dD[channel] = total_D;
        if (c.dbias) c.dbias[channel] = total_bias;
    }
}

int scan_backward(const ScanBackward &c) {
    const int64_t n = c.tokens, s = c.state;
    Partials p{};
    p.groups = ceil_div(c.channels, kBackwardGroup);
    p.padded = ceil_div(c.channels, kChannelPad) * kChannelPad;
    const int64_t tasks = c.batch * p.groups;
    const int64_t sizes[6] = {c.dB ? tasks * n * s : 0, c.dC ? tasks * n * s : 0, c.dtime ? tasks * n : 0,
                              c.batch * s * p.padded, c.batch * p.padded, c.batch * p.padded};
    float **places[6] = {&p.dB, &p.dC, &p.dtime, &p.dA, &p.dD, &p.dbias};
    int64_t total = 0;
    for (int64_t size : sizes) total += size;
    Scratch partials(total * int64_t(sizeof(float)));
    if (!partials.block) return 1;
    float *next = reinterpret_cast<float *>(partials.next);
    for (int i = 0; i < 6; ++i) {
        *places[i] = sizes[i] ? next : nullptr;
        next += sizes[i];
    }
    const int64_t vectors = kBackwardGroup / kLanes;
    int failed = 0;
#pragma omp parallel num_threads(int(c.threads < tasks ? c.threads : tasks)) if (c.threads > 1 && tasks > 1)
    {
        const int64_t size = 3 * vectors * s + 2 * kChunk * s + 8 * (2 * kChunk + 1);
        Scratch memory(size * int64_t(sizeof(V)) + 7 * 64);
        BackwardScratch m{};
        if (memory.block) {
            m.A = memory.vectors(vectors * s);
            m.dh = memory.vectors(vectors * s);
            m.dA = memory.vectors(vectors * s);
            m.dB = memory.vectors(kChunk * s);
            m.dC = memory.vectors(kChunk * s);
            m.decay = memory.vectors(8 * kChunk);
            m.h = memory.vectors(8 * (kChunk + 1));
        } else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < tasks; ++task)
            if (memory.block) backward_task(c, p, task / p.groups, task % p.groups, m);
    }
    if (!failed) add_partials(c, p);
    return failed;
}

}  // namespace
