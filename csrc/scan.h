// The selective scan, forward and backward. One task is one batch row and one group of channels; states stay in
// registers, eight at a time, while a chunk of tokens goes by.
#pragma once
#include "exponential.h"
#include "rmeeto.h"

namespace {

using namespace rmeeto;

// A row-major tensor seen in the order of the scan: reversing costs a negative stride and nothing else.
template <class T>
struct Walk {
    T *data;
    int64_t stride;
    Walk(const Rows<T> &rows, int64_t batch, int64_t tokens, int64_t reverse)
        : data(rows.data ? rows.data + batch * rows.batch_stride : nullptr), stride(rows.token_stride) {
        if (data && reverse) {
            data += (tokens - 1) * stride;
            stride = -stride;
        }
    }
    T *at(int64_t token) const { return data + token * stride; }
};

inline Out rows(float *data, int64_t tokens, int64_t width) { return Out{data, tokens * width, width}; }

// A matrix (channels, width) as vectors over channels, [width][lanes].
inline void transpose(const float *rows, int64_t width, int64_t count, V *out) {
    int64_t first = 0;
    for (; count >= kLanes && first + kLanes <= width; first += kLanes) {
        for (int64_t i = 0; i < kLanes; ++i) out[first + i] = load(rows + i * width + first);
        transpose<1>(out + first);
    }
    float *lanes = reinterpret_cast<float *>(out);
    for (int64_t i = 0; i < kLanes; ++i)
        for (int64_t k = first; k < width; ++k) lanes[k * kLanes + i] = i < count ? rows[i * width + k] : 0.0f;
}

constexpr int64_t kReachStates = 8;  // states whose exponents are judged together

// A transposed, times log2(e); behind it the `Largest` of the rates' negatives, one vector for kReachStates states.
inline int64_t rates_size(int64_t state) { return state + ceil_div(state, kReachStates); }  // vectors

inline void transpose_A(const float *A, int64_t state, int64_t count, V *out) {
    transpose(A, state, count, out);
    for (int64_t first = 0; first < state; first += kReachStates) {
        Largest largest;
        for (int64_t k = first; k < smaller(state, first + kReachStates); ++k) {
            out[k] *= kLog2e;
            largest.see(-out[k]);
        }
        out[state + first / kReachStates] = largest.found();
    }
}

// What the recurrence reads for one chunk of tokens and one vector of channels.
struct ScanInputs {
    V slope[kChunk];                                          // of softplus, for gradients
    V u[kChunk], delta[kChunk], step[kChunk], drive[kChunk];  // step = delta * time, drive = delta * u
    V longest;                                                // the `Largest` of the steps
};

struct ScanWalks {
    Walk<const float> u, delta, B, C, z, time;
    ScanWalks(const ScanInputsOf &c, int64_t batch)
        : u(c.u, batch, c.tokens, c.reverse), delta(c.delta, batch, c.tokens, c.reverse),
          B(c.B, batch, c.tokens, c.reverse), C(c.C, batch, c.tokens, c.reverse), z(c.z, batch, c.tokens, c.reverse),
          time(c.time, batch, c.tokens, c.reverse) {}
};

// Ask for a chunk's rows before their turn, to be read or written: a step from row to row is too wide for the processor
// to guess.
template <class T>
inline void fetch_ahead(const Walk<T> &rows, int64_t first, int64_t tokens, int64_t channel) {
    if (!rows.data || first < 0) return;
    const int64_t end = smaller(tokens, first + kChunk);
    for (int64_t t = first; t < end; ++t) __builtin_prefetch(rows.at(t) + channel);
}

// G tokens of delta[t] = bias + W dt[t], in step; W is transposed.
template <int G>
RMEETO_INLINE void project_dt(const Walk<const float> &dt, int64_t first, int64_t rank, const V *W, V bias,
                             V *delta) {
    V sums[G];
    const float *rows[G];
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) {
        sums[i] = bias;
        rows[i] = dt.at(first + i);
    }
    for (int64_t r = 0; r < rank; ++r) {
        const V weight = W[r];
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) sums[i] += weight * rows[i][r];
    }
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) delta[i] = sums[i];
}

inline void read_delta(const ScanInputsOf &c, const ScanWalks &w, int64_t first, int64_t length, int64_t channel,
                       const V *W, ScanInputs &in) {
    const int64_t count = c.channels - channel;
    const V bias = c.bias ? load(c.bias + channel, count) : V{};
    int64_t t = 0;
    if (c.rank) {
        for (; t + 8 <= length; t += 8) project_dt<8>(w.delta, first + t, c.rank, W, bias, in.delta + t);
        for (; t < length; ++t) project_dt<1>(w.delta, first + t, c.rank, W, bias, in.delta + t);
    } else {
        for (; t < length; ++t) in.delta[t] = load(w.delta.at(first + t) + channel, count) + bias;
    }
}

template <bool Sloped>
inline void read_inputs(const ScanInputsOf &c, const ScanWalks &w, int64_t first, int64_t length, int64_t channel,
                        const V *W, ScanInputs &in) {
    const int64_t count = c.channels - channel;
    read_delta(c, w, first, length, channel, W, in);
    if (c.softplus) {
        for (int64_t t = length; t % kInStep; ++t) in.delta[t] = V{};
        if (Sloped)
            for (int64_t t = 0; t < length; t += kInStep)
                sloped_softpluses<kInStep, true>(in.delta + t, in.slope + t);
        else
            apply<softpluses<kInStep>>(in.delta, length);
    }
    Largest longest;
    for (int64_t t = 0; t < length; ++t) {
        in.u[t] = load(w.u.at(first + t) + channel, count);
        in.drive[t] = in.delta[t] * in.u[t];
        in.step[t] = w.time.data ? in.delta[t] * *w.time.at(first + t) : in.delta[t];
        longest.see(in.step[t]);
    }
    in.longest = longest.found();
}

// gate[t] = sigmoid(z) for a chunk.
inline void read_sigmoids(const Walk<const float> &z, int64_t first, int64_t length, int64_t channel, int64_t count,
                          V *gate) {
    for (int64_t t = 0; t < length; ++t) gate[t] = load(z.at(first + t) + channel, count);
    for (int64_t t = length; t % kInStep; ++t) gate[t] = V{};
    apply<sigmoids<kInStep>>(gate, length);
}

// S states of one vector of channels over one chunk: h = 2^(step A) h + drive B; y += C h.
template <int S, Reach R>
RMEETO_INLINE void forward_tile(const ScanInputs &in, int64_t length, const V *A, const float *B, int64_t B_stride,
                                const float *C, int64_t C_stride, V *h, V *y) {
    V state[S];
    RMEETO_UNROLL
    for (int k = 0; k < S; ++k) state[k] = h[k];
    for (int64_t t = 0; t < length; ++t, B += B_stride, C += C_stride) {
        const V step = in_units<R>(in.step[t]), drive = in.drive[t];
        V even = y[t], odd = {};
        const V *rates = hidden(A);
        constexpr int G = S < kInStep ? S : kInStep;
        RMEETO_UNROLL
        for (int first = 0; first < S; first += G) {
            V a[G];
            decays<G, R>(step, rates + first, a);
            RMEETO_UNROLL
            for (int k = 0; k < G; ++k) state[first + k] = a[k] * state[first + k] + drive * B[first + k];
            RMEETO_UNROLL
            for (int k = 0; k < G; ++k) (k % 2 ? odd : even) += state[first + k] * C[first + k];
        }
        y[t] = even + odd;
    }
    RMEETO_UNROLL
    for (int k = 0; k < S; ++k) h[k] = state[k];
}

// How many states a tile has, and where their exponents lie.
template <int S, Reach R>
struct TileOf {
    static constexpr int states = S;
    static constexpr Reach reach = R;
};

template <int S, class F>
inline void with_reach(Reach reach, int64_t k, F f) {
    switch (reach) {
        case kShallow: return f(TileOf<S, kShallow>(), k);
        case kLow: return f(TileOf<S, kLow>(), k);
        case kNear: return f(TileOf<S, kNear>(), k);
        default: return f(TileOf<S, kAnywhere>(), k);
    }
}

// f(TileOf, first state) for all states, Most, four and one at a time. A as `transpose_A` leaves it.
template <int Most, class F>
inline void over_states(int64_t state, V longest, const V *A, F f) {
    for (int64_t k = 0, size; k < state; k += size) {
        const int64_t left = state - k;
        const Reach reach = reach_of(longest, A[state + k / kReachStates]);
        size = left >= Most ? Most : left >= 4 ? 4 : 1;
        if (size == Most) with_reach<Most>(reach, k, f);
        else if (size == 4) with_reach<4>(reach, k, f);
        else with_reach<1>(reach, k, f);
    }
}

inline void forward_states(const ScanInputs &in, const ScanWalks &w, int64_t first, int64_t length, int64_t state,
                           const V *A, V *h, V *y) {
    const float *B = w.B.at(first), *C = w.C.at(first);
    over_states<8>(state, in.longest, A, [&](auto tile, int64_t k) {
        forward_tile<tile.states, tile.reach>(in, length, A + k, B + k, w.B.stride, C + k, w.C.stride, h + k, y);
    });
}

constexpr int64_t kForwardGroup = 16;   // channels of one task; fixed, so that results never depend on the threads
constexpr int64_t kBackwardGroup = 64;  // larger: dB and dC are summed over it before they leave the core

// Chunk-start states, (batch, chunks, state, padded channels).
template <class T>
inline T *kept_states(T *states, int64_t batch, int64_t chunks, int64_t chunk, int64_t state, int64_t channels,
                      int64_t channel) {
    const int64_t padded = ceil_div(channels, kChannelPad) * kChannelPad;
    return states + ((batch * chunks + chunk) * state) * padded + channel;
}

// The parameters of one group of channels as vectors.
struct Parameters {
    V *A, *W;  // of each vector of channels rates_size(state) vectors, and rank
};

// Those of all groups of some calls. They are the same for every image, so that a call lays them out once: `prepare`
// each piece, then read.
template <class Call>
struct SharedParameters {
    const Call *calls;
    int64_t width, groups, pieces;  // channels of a group; pieces = groups of all calls
    V *vectors;

    static int64_t vectors_of(const ScanInputsOf &c, int64_t width) {  // of one group
        return width / kLanes * (rates_size(c.state) + c.rank);
    }
    static int64_t vectors_of(const Call *calls, int64_t count, int64_t width) {
        int64_t total = 0;
        for (int64_t i = 0; i < count; ++i)
            total += ceil_div(calls[i].in.channels, width) * vectors_of(calls[i].in, width);
        return total;
    }

    SharedParameters(const Call *calls, int64_t count, int64_t width, Scratch &memory)
        : calls(calls), width(width), groups(ceil_div(calls->in.channels, width)), pieces(count * groups),
          vectors(memory.vectors(vectors_of(calls, count, width))) {}

    void prepare(int64_t piece) const {
        const ScanInputsOf &c = calls[piece / groups].in;
        const Parameters p = of(piece / groups, piece % groups);
        const int64_t begin = piece % groups * width, end = smaller(c.channels, begin + width);
        for (int64_t channel = begin, v = 0; channel < end; channel += kLanes, ++v) {
            transpose_A(c.A + channel * c.state, c.state, c.channels - channel, p.A + v * rates_size(c.state));
            if (c.rank) transpose(c.W + channel * c.rank, c.rank, c.channels - channel, p.W + v * c.rank);
        }
    }

    // All of them, by the threads of the enclosing region. Of one image each task lays out its own: nobody waits.
    void prepare_for(int64_t batch) const {
        if (batch == 1) return;
#pragma omp for schedule(static)
        for (int64_t piece = 0; piece < pieces; ++piece) prepare(piece);
    }
    Parameters prepared(int64_t batch, int64_t call, int64_t group) const {
        if (batch == 1) prepare(call * groups + group);
        return of(call, group);
    }

    Parameters of(int64_t call, int64_t group) const {
        const ScanInputsOf &c = calls[call].in;
        V *const A = vectors + vectors_of(calls, call, width) + group * vectors_of(c, width);
        return {A, A + width / kLanes * rates_size(c.state)};
    }
};

// Memory of its own for them.
template <class Call>
struct OwnParameters {
    Scratch memory;
    SharedParameters<Call> shared;

    OwnParameters(const Call *calls, int64_t count, int64_t width)
        : memory(SharedParameters<Call>::vectors_of(calls, count, width) * int64_t(sizeof(V))),
          shared(calls, count, width, memory) {}
};

// Tasks in runs of one for each thread, the same in every call, for what a thread wrote in one call is in its cache in the
// next. Who is done with its own takes from the others' runs: two cores are seldom equally fast.
struct Runs {
    struct alignas(64) Taken {
        int64_t tasks;
    };
    int64_t tasks, count;
    Scratch memory;
    Taken *taken = nullptr;  // of each run; null where memory ran out

    Runs(int64_t tasks, int64_t threads)
        : tasks(tasks), count(smaller(threads, tasks)), memory(count * int64_t(sizeof(Taken)) + 64) {
        if (!memory.block) return;
        taken = memory.array<Taken>(count);
        memset(taken, 0, count * sizeof *taken);
    }

    // What one thread does; all together they do work(task) once for every task.
    template <class Work>
    void share(Work work) const {
        for (int64_t turn = 0; turn < count; ++turn) {
            const int64_t run = (thread_number() + turn) % count;
            const int64_t begin = run * tasks / count, end = (run + 1) * tasks / count;
            for (int64_t task; (task = begin + __atomic_fetch_add(&taken[run].tasks, 1, __ATOMIC_RELAXED)) < end;)
                work(task);
        }
    }
};

inline void forward_task(const ScanForward &call, int64_t batch, int64_t channel_begin, const Parameters &p, V *h) {
    const ScanInputsOf &c = call.in;
    const int64_t vectors = ceil_div(smaller(kForwardGroup, c.channels - channel_begin), kLanes);
    const int64_t chunks = ceil_div(c.tokens, kChunk), padded = ceil_div(c.channels, kChannelPad) * kChannelPad;
    memset(h, 0, vectors * c.state * sizeof(V));
    const ScanWalks w(c, batch);
    const Walk<float> out(call.y, batch, c.tokens, c.reverse);
    ScanInputs in;
    V y[kChunk], gate[kChunk];
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t first = chunk * kChunk, length = smaller(kChunk, c.tokens - first);
        for (int64_t v = 0; v < vectors; ++v) {
            const int64_t channel = channel_begin + v * kLanes, count = c.channels - channel;
            V *state = h + v * c.state;
            const V *const A = p.A + v * rates_size(c.state);
            if (call.states) {
                float *kept = kept_states(call.states, batch, chunks, chunk, c.state, c.channels, channel);
                for (int64_t k = 0; k < c.state; ++k) store(kept + k * padded, state[k]);
            }
            fetch_ahead(w.u, first + kChunk, c.tokens, channel);
            if (!c.rank) fetch_ahead(w.delta, first + kChunk, c.tokens, channel);
            fetch_ahead(w.z, first + kChunk, c.tokens, channel);
            if (c.batch > 1) fetch_ahead(out, first + kChunk, c.tokens, channel);  // one image's lie in the cache
            read_inputs<false>(c, w, first, length, channel, p.W + v * c.rank, in);
            const V skip = c.D ? load(c.D + channel, count) : V{};
            for (int64_t t = 0; t < length; ++t) y[t] = c.D ? skip * in.u[t] : V{};
            forward_states(in, w, first, length, c.state, A, state, y);
            if (c.accumulate)
                for (int64_t t = 0; t < length; ++t) y[t] += load(out.at(first + t) + channel, count);
            if (c.z.data) {
                read_sigmoids(w.z, first, length, channel, count, gate);
                const float scale = float(c.scale);
                for (int64_t t = 0; t < length; ++t)
                    y[t] *= load(w.z.at(first + t) + channel, count) * gate[t] * scale;
            }
            for (int64_t t = 0; t < length; ++t) store(out.at(first + t) + channel, y[t], count);
        }
    }
}

int scan_forward(const ScanForward *calls, int64_t count) {
    const ScanInputsOf &c = calls->in;
    const OwnParameters<ScanForward> own_parameters(calls, count, kForwardGroup);
    if (!own_parameters.memory.block) return 1;
    const SharedParameters<ScanForward> &parameters = own_parameters.shared;
    const int64_t groups = parameters.groups;
    const Runs runs(c.batch * groups, c.threads);
    if (!runs.taken) return 1;
    int64_t state = 0;
    for (int64_t i = 0; i < count; ++i) state = calls[i].in.state > state ? calls[i].in.state : state;
    int failed = 0;
#pragma omp parallel num_threads(int(runs.count)) if (runs.count > 1)
    {
        Scratch own(kForwardGroup / kLanes * state * int64_t(sizeof(V)) + 64);
        if (!own.block) {
#pragma omp atomic write
            failed = 1;
        }
        V *h = own.vectors(0);
        parameters.prepare_for(c.batch);
        runs.share([&](int64_t task) {
            for (int64_t i = 0; own.block && i < count; ++i)
                forward_task(calls[i], task / groups, task % groups * kForwardGroup,
                             parameters.prepared(c.batch, i, task % groups), h);
        });
    }
    return failed;
}

}  // namespace
