// Depthwise causal convolution with its bias and SiLU, one pass over memory.
#pragma once
#include "scan.h"

namespace {

constexpr int64_t kConvTokens = 32;     // tokens of one forward task
constexpr int64_t kConvChannels = 32;   // channels of one backward task
constexpr int64_t kConvAhead = 16;      // tokens that a backward task asks for before their turn
constexpr int64_t kMaxTaps = 8;

// weight (channels, taps) as [channel block][taps][lanes], newest token first; the last row holds the bias.
inline void arrange_weight(const float *weight, const float *bias, int64_t channels, int64_t taps, V *out) {
    float *lanes = reinterpret_cast<float *>(out);
    const int64_t padded = ceil_div(channels, kLanes) * kLanes;
    for (int64_t c = 0; c < padded; ++c) {
        float *block = lanes + c / kLanes * (taps + 1) * kLanes + c % kLanes;
        for (int64_t j = 0; j < taps; ++j) block[j * kLanes] = c < channels ? weight[c * taps + taps - 1 - j] : 0.0f;
        block[taps * kLanes] = c < channels && bias ? bias[c] : 0.0f;
    }
}

// G vectors of channels of token l in step, all taps there: one by itself would wait for each step of its exponential.
template <int K, int G>
RMEETO_INLINE void conv_vectors(const Walk<const float> &x, const Walk<float> &y, int64_t l, int64_t channel,
                                const V *weight) {
    V sums[G], gates[G];
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) sums[i] = weight[i * (K + 1) + K];
    RMEETO_UNROLL
    for (int j = 0; j < K; ++j) {
        const float *row = x.at(l - j) + channel;
        RMEETO_UNROLL
        for (int i = 0; i < G; ++i) sums[i] += weight[i * (K + 1) + j] * load(row + i * kLanes);
    }
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) gates[i] = sums[i];
    sigmoids<G>(gates);
    RMEETO_UNROLL
    for (int i = 0; i < G; ++i) store(y.at(l) + channel + i * kLanes, sums[i] * gates[i]);
}

// One vector of channels, of which some are no more; or of a token so early that taps are missing: each counts as zero,
// and zero times infinity is NaN, as in the reference.
template <int K>
inline void conv_part(const Walk<const float> &x, const Walk<float> &y, int64_t l, int64_t channel, int64_t count,
                      const V *weight) {
    const int64_t taps = smaller(K, l + 1);
    V sum = weight[K];
    for (int64_t j = 0; j < K; ++j) sum += weight[j] * (j < taps ? load(x.at(l - j) + channel, count) : V{});
    V gate = sum;
    sigmoids<1>(&gate);
    store(y.at(l) + channel, sum * gate, count);
}

// Tokens [begin, end) in the order of the convolution.
template <int K>
void conv_forward_task(const ConvForward &c, int64_t batch, int64_t begin, int64_t end, const V *weight) {
    constexpr int G = kInStep;
    const Walk<const float> x(c.x, batch, c.tokens, c.reverse);
    const Walk<float> y(c.y, batch, c.tokens, c.reverse);
    for (int64_t l = begin; l < end; ++l) {
        const V *w = weight;
        int64_t channel = 0;
        for (; l + 1 >= K && channel + G * kLanes <= c.channels; channel += G * kLanes, w += G * (K + 1))
            conv_vectors<K, G>(x, y, l, channel, w);
        for (; l + 1 >= K && channel + kLanes <= c.channels; channel += kLanes, w += K + 1)
            conv_vectors<K, 1>(x, y, l, channel, w);
        for (; channel < c.channels; channel += kLanes, w += K + 1)
            conv_part<K>(x, y, l, channel, c.channels - channel, w);
    }
}

// Vectors that arrange_weight fills.
template <class Call>
inline int64_t arranged_size(const Call &c) {
    return ceil_div(c.channels, kLanes) * (c.taps + 1);
}

// Run<K>::run for so many taps.
template <template <int> class Run>
auto by_taps(int64_t taps) -> decltype(+Run<1>::run) {
    switch (taps) {
        case 1: return Run<1>::run;
        case 2: return Run<2>::run;
        case 3: return Run<3>::run;
        case 4: return Run<4>::run;
        case 5: return Run<5>::run;
        case 6: return Run<6>::run;
        case 7: return Run<7>::run;
        default: return Run<kMaxTaps>::run;
    }
}

template <int K>
struct ConvForwardTask {
    static constexpr auto run = conv_forward_task<K>;
};

int conv_forward(const ConvForward *calls, int64_t count) {
    const ConvForward &c = *calls;
    const int64_t blocks = ceil_div(c.tokens, kConvTokens), tasks = c.batch * blocks, size = arranged_size(c);
    Scratch scratch(count * size * int64_t(sizeof(V)));
    if (!scratch.block) return 1;
    V *weight = scratch.vectors(0);
    for (int64_t i = 0; i < count; ++i)
        arrange_weight(calls[i].weight, calls[i].bias, c.channels, c.taps, weight + i * size);
    const auto run = by_taps<ConvForwardTask>(c.taps);
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(c.threads < tasks ? c.threads : tasks)) \
    if (c.threads > 1 && tasks > 1)
    for (int64_t task = 0; task < tasks; ++task)
        for (int64_t i = 0; i < count; ++i) {
            // a reversed walk counts from the end: take the block that holds the same rows
            const int64_t block = calls[i].reverse ? blocks - 1 - task % blocks : task % blocks;
            const int64_t begin = block * kConvTokens, end = smaller(c.tokens, begin + kConvTokens);
            run(calls[i], task / blocks, begin, end, weight + i * size);
        }
    return 0;
}

// Sums over the tokens of one batch row, (taps + 1) vectors: the gradients of the weight, newest first, and the bias.
template <int K>
RMEETO_INLINE void conv_backward_vector(const ConvBackward &c, int64_t batch, int64_t channel, const V *w, V *sums) {
    const Walk<const float> x(c.x, batch, c.tokens, c.reverse), dy(c.dy, batch, c.tokens, c.reverse);
    const Walk<float> dx(c.dx, batch, c.tokens, c.reverse);
    const int64_t count = c.channels - channel;
    V seen[K] = {}, gradient[K] = {}, total[K + 1] = {};
    for (int64_t l = 0; l < c.tokens + K - 1; ++l) {
        RMEETO_UNROLL
        for (int j = K - 1; j > 0; --j) {
            seen[j] = seen[j - 1];
            gradient[j] = gradient[j - 1];
        }
        gradient[0] = V{};
        if (l < c.tokens) {
            const int64_t ahead = smaller(l + kConvAhead, c.tokens - 1);
            __builtin_prefetch(x.at(ahead) + channel);
            __builtin_prefetch(dy.at(ahead) + channel);
            seen[0] = load(x.at(l) + channel, count);
            V sum = w[K];
            RMEETO_UNROLL
            for (int j = 0; j < K; ++j) sum += w[j] * seen[j];
            V s = sum;
            sigmoids<1>(&s);
            const V g = load(dy.at(l) + channel, count) * (s * (1.0f + sum * (1.0f - s)));
            gradient[0] = g;
            RMEETO_UNROLL
            for (int j = 0; j < K; ++j) total[j] += g * seen[j];
            total[K] += g;
        }
        if (dx.data && l >= K - 1) {
            V sum = c.accumulate ? load(dx.at(l - K + 1) + channel, count) : V{};
            RMEETO_UNROLL
            for (int j = 0; j < K; ++j)  // no gradient comes from behind the end, not even zero
                if (K - 1 - j > l - c.tokens) sum += w[j] * gradient[K - 1 - j];
            store(dx.at(l - K + 1) + channel, sum, count);
        }
    }
    RMEETO_UNROLL
    for (int j = 0; j <= K; ++j) sums[j] = total[j];
}

// The gradients of one batch row; adds to sums, laid out as `arrange_weight` does.
template <int K>
void conv_backward_row(const ConvBackward &c, int64_t batch, const V *weight, V *sums) {
    for (int64_t channel = 0; channel < c.channels; channel += kLanes, weight += K + 1, sums += K + 1) {
        V own[K + 1];
        conv_backward_vector<K>(c, batch, channel, weight, own);
        for (int j = 0; j <= K; ++j) sums[j] += own[j];
    }
}

template <int K>
struct ConvBackwardRow {
    static constexpr auto run = conv_backward_row<K>;
};

template <int K>
inline void conv_add_sums(const ConvBackward &c, const V *sums, int64_t blocks) {
    const float *lanes = reinterpret_cast<const float *>(sums);
    for (int64_t channel = 0; channel < c.channels; ++channel)
        for (int64_t j = 0; j <= K; ++j) {
            float total = 0;
            for (int64_t b = 0; b < c.batch; ++b)
                total += lanes[((b * blocks + channel / kLanes) * (K + 1) + j) * kLanes + channel % kLanes];
            if (j < K && c.dweight) c.dweight[channel * K + K - 1 - j] = total;
            if (j == K && c.dbias) c.dbias[channel] = total;
        }
}

template <int K>
struct ConvAddSums {
    static constexpr auto run = conv_add_sums<K>;
};

template <int K>
int conv_backward_taps(const ConvBackward *calls, int64_t count) {
    const ConvBackward &c = *calls;
    const int64_t blocks = ceil_div(c.channels, kLanes), groups = ceil_div(c.channels, kConvChannels);
    const int64_t tasks = c.batch * groups, size = arranged_size(c);
    Scratch scratch(count * (1 + c.batch) * size * int64_t(sizeof(V)) + 64);
    if (!scratch.block) return 1;
    V *weight = scratch.vectors(count * size), *sums = scratch.vectors(count * c.batch * size);
    for (int64_t i = 0; i < count; ++i)
        arrange_weight(calls[i].weight, calls[i].bias, c.channels, K, weight + i * size);
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(c.threads < tasks ? c.threads : tasks)) \
    if (c.threads > 1 && tasks > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t batch = task / groups, begin = task % groups * kConvChannels;
        for (int64_t i = 0; i < count; ++i)
            for (int64_t channel = begin; channel < smaller(c.channels, begin + kConvChannels); channel += kLanes) {
                const int64_t place = channel / kLanes * (K + 1);
                conv_backward_vector<K>(calls[i], batch, channel, weight + i * size + place,
                                        sums + (i * c.batch + batch) * size + place);
            }
    }
    for (int64_t i = 0; i < count; ++i) conv_add_sums<K>(calls[i], sums + i * c.batch * size, blocks);
    return 0;
}

template <int K>
struct ConvBackwardRun {
    static constexpr auto run = conv_backward_taps<K>;
};

int conv_backward(const ConvBackward *calls, int64_t count) {
    return by_taps<ConvBackwardRun>(calls->taps)(calls, count);
}

}  // namespace
