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
    V gate[kChunk];                    // sigmoid of z
    V ddrive[kChunk], dstep[kChunk];   // dstep lacks the factor ln 2
};

// A task's own memory. Sizes in vectors: state * lanes-groups for dh, dA; chunk * state for dB, dC.
struct BackwardScratch {
    V *dh, *dA, *dB, *dC, *decay, *h;
};

// Recompute S states of a chunk, keeping the decay a_t and the state before every token; h has room for length + 1. Seen:
// what the states give is wanted, too.
template <int S, bool Seen, Reach R>
RMEETO_INLINE void recompute_tile(BackwardChunk &b, int64_t length, const V *A, const float *B, int64_t B_stride,
                                  const float *C, int64_t C_stride, const float *start, int64_t start_stride,
                                  V *decay, V *h) {
    V state[S];
    RMEETO_UNROLL
    for (int k = 0; k < S; ++k) h[k] = state[k] = load(start + k * start_stride);
    for (int64_t t = 0; t < length; ++t, B += B_stride, C += C_stride) {
        const V step = in_units<R>(b.in.step[t]), drive = b.in.drive[t];
        V even = {}, odd = {};
        decay += S;
        h += S;
        constexpr int G = S < kInStep ? S : kInStep;
        const V *rates = hidden(A);
        RMEETO_UNROLL
        for (int first = 0; first < S; first += G) {
            V a[G];
            decays<G, R>(step, rates + first, a);
            RMEETO_UNROLL
            for (int k = 0; k < G; ++k) {
                decay[first + k - S] = a[k];
                h[first + k] = state[first + k] = a[k] * state[first + k] + drive * B[first + k];
                if (Seen) (k % 2 ? odd : even) += state[first + k] * C[first + k];
            }
        }
        if (Seen) b.y[t] += even + odd;
    }
}

template <int S>
RMEETO_INLINE void sweep_tile(BackwardChunk &b, int64_t length, const V *A, const float *B, int64_t B_stride,
                              const float *C, int64_t C_stride, const V *decay, const V *h, V *dh, V *dA, V *dB,
                              V *dC, int64_t state) {
    V carry[S], rate_sums[S];
    RMEETO_UNROLL
    for (int k = 0; k < S; ++k) {
        carry[k] = dh[k];
        rate_sums[k] = V{};
    }
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
            rate_sums[k] += w * step;
            dstep += w * A[k];
        }
        b.ddrive[t] = ddrive;
        b.dstep[t] = dstep;
    }
    RMEETO_UNROLL
    for (int k = 0; k < S; ++k) {
        dh[k] = carry[k];
        dA[k] += rate_sums[k];
    }
}

struct Tile {
    int64_t first, length, state, vector;
    const V *A;          // rates of this vector's channels
    const float *start;  // kept states of this vector's channels
    int64_t start_stride;
};

template <int S, bool Seen, Reach R>
inline void backward_tile(BackwardChunk &b, const ScanWalks &w, const Tile &tile, int64_t k, BackwardScratch &m) {
    const float *B = w.B.at(tile.first) + k, *C = w.C.at(tile.first) + k;
    const int64_t place = tile.vector * tile.state + k;
    recompute_tile<S, Seen, R>(b, tile.length, tile.A + k, B, w.B.stride, C, w.C.stride,
                                     tile.start + k * tile.start_stride, tile.start_stride, m.decay, m.h);
    sweep_tile<S>(b, tile.length, tile.A + k, B, w.B.stride, C, w.C.stride, m.decay, m.h, m.dh + place, m.dA + place,
                  m.dB + k, m.dC + k, tile.state);
}

template <bool Seen>
inline void backward_states(BackwardChunk &b, const ScanWalks &w, const Tile &tile, BackwardScratch &m) {
    constexpr int most = kLanes == 16 ? 8 : 4;  // eight states and their sums at a time: only AVX-512 has the registers
    over_states<most>(tile.state, b.in.longest, tile.A, [&](auto of, int64_t k) {
        backward_tile<of.states, Seen, of.reach>(b, w, tile, k, m);
    });
}

// Where the gradients of one task go, in the order of the scan.
struct BackwardWalks {
    Walk<const float> dy;
    Walk<float> y, du, ddelta, dz, dB, dC, dtime;  // dB, dC, dtime: this task's partial sums
};

inline void prepare_chunk(const ScanInputsOf &c, const ScanWalks &w, const BackwardWalks &o, int64_t first,
                          int64_t length, int64_t channel, const V *W, BackwardChunk &b) {
    const int64_t count = c.channels - channel;
    const Walk<const float> *inputs[] = {&w.u, &w.z, &o.dy};
    for (const auto *rows : inputs) fetch_ahead(*rows, first - kChunk, c.tokens, channel);
    if (!c.rank) fetch_ahead(w.delta, first - kChunk, c.tokens, channel);
    read_inputs<true>(c, w, first, length, channel, W, b.in);
    const V skip = c.D ? load(c.D + channel, count) : V{};
    const float scale = float(c.scale);
    if (w.z.data) read_sigmoids(w.z, first, length, channel, count, b.gate);
    for (int64_t t = 0; t < length; ++t) {
        b.g[t] = load(o.dy.at(first + t) + channel, count);
        if (w.z.data) b.g[t] *= load(w.z.at(first + t) + channel, count) * b.gate[t] * scale;
        b.y[t] = c.D ? skip * b.in.u[t] : V{};
        b.ddrive[t] = b.dstep[t] = V{};
    }
}

inline void finish_chunk(const ScanInputsOf &c, const ScanWalks &w, const BackwardWalks &o, int64_t first,
                         int64_t length, int64_t channel, BackwardChunk &b, V *dtime, V &dD, V &dbias) {
    const int64_t count = c.channels - channel;
    const V skip = c.D ? load(c.D + channel, count) : V{};
    const float scale = float(c.scale);
    for (int64_t t = length - 1; t >= 0; --t) {
        const V u = b.in.u[t], dstep = b.dstep[t] * kLn2;
        const float time = w.time.data ? *w.time.at(first + t) : 1.0f;
        V ddelta = b.ddrive[t] * u + dstep * time;
        if (c.softplus) ddelta *= b.in.slope[t];
        dtime[t] += dstep * b.in.delta[t];
        dD += b.g[t] * u;
        dbias += ddelta;
        const V du = b.ddrive[t] * b.in.delta[t] + (c.D ? b.g[t] * skip : V{});
        if (o.du.data) store(o.du.at(first + t) + channel, du, count);
        if (o.ddelta.data) store(o.ddelta.at(first + t) + channel, ddelta, count);
        if (o.dz.data) {
            const V z = load(w.z.at(first + t) + channel, count), s = b.gate[t];
            const V dy = load(o.dy.at(first + t) + channel, count);
            V dz = dy * b.y[t] * (s * (1.0f + z * (1.0f - s)) * scale);
            if (c.accumulate) dz += load(o.dz.at(first + t) + channel, count);
            store(o.dz.at(first + t) + channel, dz, count);
        }
        if (o.y.data) {
            V y = b.y[t];
            if (c.accumulate) y += load(o.y.at(first + t) + channel, count);
            store(o.y.at(first + t) + channel, y, count);
        }
    }
}

// Partial sums of one backward call, added up in a fixed order at the end.
struct Partials {
    int64_t groups, padded;
    float *dB, *dC, *dtime;     // (batch, groups, tokens, state) or (batch, groups, tokens)
    float *dA, *dD, *dbias;     // (batch, state, padded) or (batch, padded)
};

// The rows of a chunk: out[t][j] = sum of the lanes of sums[t * width + j]; sums has whole chunks of rows, and is used up.
inline void write_token_sums(const Walk<float> &out, int64_t first, int64_t length, int64_t width, V *sums) {
    if (!out.data) return;
    float *flat = reinterpret_cast<float *>(sums);
    lane_sums(sums, length * width, flat);
    for (int64_t t = 0; t < length; ++t) {
        float *to = out.at(first + t);
        const float *from = flat + t * width;
        int64_t j = 0;  // no memcpy: rows are short, and were written a moment ago
        for (; j + kLanes <= width; j += kLanes) store(to + j, load(from + j));
        for (; j < width; ++j) to[j] = from[j];
    }
}

inline void backward_task(const ScanBackward &call, const Parameters &own, const Partials &p, int64_t batch,
                          int64_t group, BackwardScratch &m) {
    const ScanInputsOf &c = call.in;
    const int64_t channel_begin = group * kBackwardGroup;
    const int64_t vectors = ceil_div(smaller(kBackwardGroup, c.channels - channel_begin), kLanes);
    const int64_t chunks = ceil_div(c.tokens, kChunk), state = c.state, n = c.tokens, e = c.channels;
    memset(m.dh, 0, vectors * state * sizeof(V));
    memset(m.dA, 0, vectors * state * sizeof(V));
    V dD[kBackwardGroup / kLanes] = {}, dbias[kBackwardGroup / kLanes] = {};
    const ScanWalks w(c, batch);
    const int64_t part = batch * p.groups + group;
    const BackwardWalks o{{call.dy, batch, n, c.reverse},
                          {call.y, batch, n, c.reverse},
                          {call.du, batch, n, c.reverse},
                          {call.ddelta, batch, n, c.reverse},
                          {call.dz, batch, n, c.reverse},
                          {rows(p.dB, n, state), part, n, c.reverse},
                          {rows(p.dC, n, state), part, n, c.reverse},
                          {rows(p.dtime, n, 1), part, n, c.reverse}};
    BackwardChunk b;
    V dtime[kChunk];
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
        const int64_t first = chunk * kChunk, length = smaller(kChunk, n - first);
        memset(m.dB, 0, kChunk * state * sizeof(V));
        memset(m.dC, 0, kChunk * state * sizeof(V));
        memset(dtime, 0, sizeof dtime);
        for (int64_t v = 0; v < vectors; ++v) {
            const int64_t channel = channel_begin + v * kLanes;
            const V *const A = own.A + v * rates_size(state);
            prepare_chunk(c, w, o, first, length, channel, own.W + v * c.rank, b);
            const float *start = kept_states(call.states, batch, chunks, chunk, state, e, channel);
            if (chunk) {  // the states of the chunk that comes next, each in a row of its own
                const float *next = kept_states(call.states, batch, chunks, chunk - 1, state, e, channel);
                for (int64_t k = 0; k < state; ++k) __builtin_prefetch(next + k * p.padded);
            }
            const Tile tile{first, length, state, v, A, start, p.padded};
            const bool seen = o.dz.data || o.y.data;
            seen ? backward_states<true>(b, w, tile, m) : backward_states<false>(b, w, tile, m);
            finish_chunk(c, w, o, first, length, channel, b, dtime, dD[v], dbias[v]);
        }
        write_token_sums(o.dB, first, length, state, m.dB);
        write_token_sums(o.dC, first, length, state, m.dC);
        write_token_sums(o.dtime, first, length, 1, dtime);
    }
    for (int64_t v = 0; v < vectors; ++v) {
        const int64_t channel = channel_begin + v * kLanes;
        for (int64_t k = 0; k < state; ++k)
            store(p.dA + (batch * state + k) * p.padded + channel, m.dA[v * state + k]);
        store(p.dD + batch * p.padded + channel, dD[v]);
        store(p.dbias + batch * p.padded + channel, dbias[v]);
    }
}

// out[t][j] = sum over i of parts[i][t][j], for every token of a batch row
inline void add_up(Out out, int64_t batch, const float *parts, int64_t groups, int64_t tokens, int64_t width) {
    for (int64_t t = 0; t < tokens; ++t) {
        float *row = out.data + batch * out.batch_stride + t * out.token_stride;
        const float *part = parts + (batch * groups * tokens + t) * width;
        memcpy(row, part, width * sizeof(float));
        for (int64_t i = 1; i < groups; ++i)
            for (int64_t j = 0; j < width; ++j) row[j] += part[i * tokens * width + j];
    }
}

// out[channel * stride] = sum over the batch of parts[b * step + channel]; parts are padded to whole vectors
inline void add_batch(float *out, int64_t stride, const float *parts, int64_t batch, int64_t step, int64_t channels) {
    if (!out) return;
    for (int64_t first = 0; first < channels; first += kLanes) {
        V total = {};
        for (int64_t b = 0; b < batch; ++b) total += load(parts + b * step + first);
        float lanes[kLanes];
        store(lanes, total);
        const int64_t count = smaller(kLanes, channels - first);
        for (int64_t i = 0; i < count; ++i) out[(first + i) * stride] = lanes[i];
    }
}

// The partial sums of a call are added up in pieces, one for each batch row and one for each row of channels.
inline int64_t pieces(const ScanInputsOf &c) { return c.batch + c.state + 2; }

inline void add_partials(const ScanBackward &call, const Partials &p, int64_t piece) {
    const ScanInputsOf &c = call.in;
    const int64_t n = c.tokens, s = c.state;
    if (piece < c.batch) {
        if (p.dB) add_up(call.dB, piece, p.dB, p.groups, n, s);
        if (p.dC) add_up(call.dC, piece, p.dC, p.groups, n, s);
        if (p.dtime) add_up(rows(call.dtime, n, 1), piece, p.dtime, p.groups, n, 1);
        return;
    }
    const int64_t k = piece - c.batch;
    if (k < s)
        add_batch(call.dA ? call.dA + k : nullptr, s, p.dA + k * p.padded, c.batch, s * p.padded, c.channels);
    else if (k == s)
        add_batch(call.dD, 1, p.dD, c.batch, p.padded, c.channels);
    else
        add_batch(call.dbias, 1, p.dbias, c.batch, p.padded, c.channels);
}

// Lays the partial sums of one call out at `memory`, where there is some; returns how many floats they take.
inline int64_t lay_out(const ScanBackward &call, float *memory, Partials &p) {
    const ScanInputsOf &c = call.in;
    p.groups = ceil_div(c.channels, kBackwardGroup);
    p.padded = ceil_div(c.channels, kChannelPad) * kChannelPad;
    const int64_t rows = c.batch * p.groups * c.tokens, columns = c.batch * p.padded;
    const int64_t sizes[6] = {call.dB.data ? rows * c.state : 0, call.dC.data ? rows * c.state : 0,
                              call.dtime ? rows : 0, columns * c.state, columns, columns};
    float **places[6] = {&p.dB, &p.dC, &p.dtime, &p.dA, &p.dD, &p.dbias};
    int64_t total = 0;
    for (int i = 0; i < 6; ++i) {
        *places[i] = memory && sizes[i] ? memory + total : nullptr;
        total += sizes[i];
    }
    return total;
}

inline BackwardScratch take_scratch(Scratch &memory, int64_t state) {
    const int64_t vectors = kBackwardGroup / kLanes;
    BackwardScratch m;
    m.dh = memory.vectors(vectors * state);
    m.dA = memory.vectors(vectors * state);
    m.dB = memory.vectors(kChunk * state);
    m.dC = memory.vectors(kChunk * state);
    m.decay = memory.vectors(8 * kChunk);
    m.h = memory.vectors(8 * (kChunk + 1));
    return m;
}

constexpr int64_t kMostCalls = 2;

int scan_backward(const ScanBackward *calls, int64_t count) {
    const ScanInputsOf &c = calls->in;
    Partials partials[kMostCalls] = {};
    int64_t total = 0, state = 0;
    for (int64_t i = 0; i < count; ++i) {
        total += lay_out(calls[i], nullptr, partials[i]);
        state = calls[i].in.state > state ? calls[i].in.state : state;
    }
    const OwnParameters<ScanBackward> own_parameters(calls, count, kBackwardGroup);
    const SharedParameters<ScanBackward> &parameters = own_parameters.shared;
    Scratch memory(total * int64_t(sizeof(float)));
    if (!memory.block || !own_parameters.memory.block) return 1;
    float *next = reinterpret_cast<float *>(memory.next);
    for (int64_t i = 0; i < count; ++i) next += lay_out(calls[i], next, partials[i]);
    const int64_t groups = partials->groups;
    const Runs runs(c.batch * groups, c.threads);
    if (!runs.taken) return 1;
    int failed = 0;
#pragma omp parallel num_threads(int(runs.count)) if (runs.count > 1)
    {
        const int64_t vectors = kBackwardGroup / kLanes;
        const int64_t size = vectors * 2 * state + 2 * kChunk * state + 8 * (2 * kChunk + 1);
        Scratch own(size * int64_t(sizeof(V)) + 8 * 64);
        const bool ready = own.block;
        BackwardScratch m = {};
        if (ready) m = take_scratch(own, state);
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
        parameters.prepare_for(c.batch);
        runs.share([&](int64_t task) {
            for (int64_t i = 0; ready && i < count; ++i)
                backward_task(calls[i], parameters.prepared(c.batch, i, task % groups), partials[i], task / groups,
                              task % groups, m);
        });
#pragma omp barrier
        for (int64_t i = 0; i < count; ++i) {
#pragma omp for schedule(static) nowait
            for (int64_t piece = 0; piece < pieces(calls[i].in); ++piece) add_partials(calls[i], partials[i], piece);
        }
    }
    return failed;
}

}  // namespace
