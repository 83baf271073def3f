// The root-mean-square norm of each token: y = x w / sqrt(mean(x^2) + eps).
#pragma once
#include "rmeeto.h"
#include "simd.h"

namespace {

using namespace rmeeto;

constexpr int64_t kNormRows = 64;  // rows of one task; fixed, so that sums never depend on the threads

inline const float *row_of(const In &x, int64_t tokens, int64_t row) {
    return x.data + row / tokens * x.batch_stride + row % tokens * x.token_stride;
}

inline float sum_of_lanes(V v) {
    V rows[kLanes] = {v};
    alignas(64) float sums[kLanes];
    lane_sums(rows, kLanes, sums);
    return sums[0];
}

// Four sums at a time, or each addition would wait for the one before.
inline float sum_of_squares(const float *x, int64_t channels) {
    V sums[4] = {};
    int64_t c = 0;
    for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
        RMEETO_UNROLL
        for (int i = 0; i < 4; ++i) {
            const V v = load(x + c + i * kLanes);
            sums[i] += v * v;
        }
    }
    for (; c < channels; c += kLanes) {
        const V v = load(x + c, channels - c);
        sums[0] += v * v;
    }
    return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

inline float inverse_root(const float *x, int64_t channels, double eps) {
    return 1.0f / __builtin_sqrtf(sum_of_squares(x, channels) / float(channels) + float(eps));
}

inline void norm_row(const float *x, const float *weight, int64_t channels, double eps, float *y) {
    const float root = inverse_root(x, channels, eps);
    for (int64_t c = 0; c < channels; c += kLanes) {
        const int64_t count = channels - c;
        store(y + c, load(x + c, count) * root * load(weight + c, count), count);
    }
}

int norm_forward(const NormForward *calls, int64_t) {
    const NormForward &n = *calls;
    const int64_t rows = n.batch * n.tokens, tasks = ceil_div(rows, kNormRows);
#pragma omp parallel for num_threads(int(n.threads < tasks ? n.threads : tasks)) if (n.threads > 1 && tasks > 1)
    for (int64_t task = 0; task < tasks; ++task)
        for (int64_t row = task * kNormRows; row < smaller(rows, (task + 1) * kNormRows); ++row)
            norm_row(row_of(n.x, n.tokens, row), n.weight, n.channels, n.eps, n.y + row * n.channels);
    return 0;
}

// dx = r g - x r^3 mean(g x) with g = dy w and r the inverse root; dw = sum over rows of dy x r.
inline void norm_backward_row(const NormBackward &n, int64_t row, float *dweight) {
    const float *x = row_of(n.x, n.tokens, row), *dy = row_of(n.dy, n.tokens, row);
    const float root = inverse_root(x, n.channels, n.eps);
    V along = {};
    for (int64_t c = 0; c < n.channels; c += kLanes) {
        const int64_t count = n.channels - c;
        const V v = load(x + c, count), g = load(dy + c, count);
        along += v * g * load(n.weight + c, count);
        store(dweight + c, load(dweight + c, count) + g * v * root, count);
    }
    if (!n.dx) return;
    const float back = sum_of_lanes(along) / float(n.channels) * root * root * root;
    float *dx = n.dx + row * n.channels;
    for (int64_t c = 0; c < n.channels; c += kLanes) {
        const int64_t count = n.channels - c;
        store(dx + c, load(dy + c, count) * load(n.weight + c, count) * root - load(x + c, count) * back, count);
    }
}

int norm_backward(const NormBackward *calls, int64_t) {
    const NormBackward &n = *calls;
    const int64_t rows = n.batch * n.tokens, tasks = ceil_div(rows, kNormRows);
    Scratch memory(tasks * n.channels * int64_t(sizeof(float)));
    if (!memory.block) return 1;
    float *partial = reinterpret_cast<float *>(memory.next);
    memset(partial, 0, tasks * n.channels * sizeof(float));
#pragma omp parallel for num_threads(int(n.threads < tasks ? n.threads : tasks)) if (n.threads > 1 && tasks > 1)
    for (int64_t task = 0; task < tasks; ++task)
        for (int64_t row = task * kNormRows; row < smaller(rows, (task + 1) * kNormRows); ++row)
            norm_backward_row(n, row, partial + task * n.channels);
    if (!n.dweight) return 0;
    memset(n.dweight, 0, n.channels * sizeof(float));
    for (int64_t task = 0; task < tasks; ++task)
        for (int64_t c = 0; c < n.channels; ++c) n.dweight[c] += partial[task * n.channels + c];
    return 0;
}

}  // namespace
