// The gradients of whole blocks in one go. The forward pass kept the states at the start of every chunk and (dt, B, C);
// all else is computed again, for one image or a few at a time, so that nothing between x and its gradient leaves a
// core's caches. Each share of the batch adds up its own gradients of the weights; at the end shares are added in order.
#pragma once
#include "block_gradients.h"

namespace {

// Images [first, end), which one thread works on.
struct BackwardImages {
    const BackwardShared &shared;
    const BackwardThread &t;
    int64_t share, first, end;
    const BlockForward &b = shared.b;
    const BackwardSizes &s = shared.s;
    const int64_t rows = (end - first) * b.tokens;

    void run() const {
        begin();
        into(shared.in, t.normed, s.slim, t.xz, s.wide);
        into(shared.out_back, t.dhidden, s.slim, t.dy, s.narrow);
        for (int64_t row = 0; row < rows; ++row) open_gate(row);
        for (int64_t way = 0; way < 2; ++way) direction(way);
        for (int64_t row = 0; row < rows; ++row) close_gate(row);
        weight(0, t.dxz, s.wide, t.normed, s.slim);
        weight(1, t.dhidden, s.slim, t.y, s.narrow);
        into(shared.in_back, t.dxz, s.wide, t.dy, s.narrow);
        finish();
    }

    // Normed tokens, and the gradient of hidden: what came for it and what came for y.
    void begin() const {
        const In &dy = shared.call.dy, &dhidden = shared.call.dhidden;
        for (int64_t row = 0; row < rows; ++row) {
            norm_row(of_image(b.x, row), b.norm, b.width, b.eps, t.normed + row * s.slim);
            const float *one = dy.data ? of_image(dy, row) : of_image(dhidden, row);
            const float *other = dy.data && dhidden.data ? of_image(dhidden, row) : nullptr;
            for (int64_t c = 0; c < b.width; c += kLanes) {
                V v = load(one + c, b.width - c);
                if (other) v += load(other + c, b.width - c);
                store(t.dhidden + row * s.slim + c, v, b.width - c);
            }
        }
    }

    // The gate is one for both directions: from dy of what comes out of it to that of what goes in. Where z was, its
    // silu is then; where dz will be, what the sum of both directions is to be multiplied by.
    void open_gate(int64_t row) const {
        float *z = t.xz + row * s.wide + b.channels, *dz = t.dxz + row * s.wide + b.channels;
        float *dy = t.dy + row * s.narrow;
        const float scale = float(b.scale);
        for (int64_t c = 0; c < b.channels; c += kInStep * kLanes) {
            V gates[kInStep];
            for (int64_t i = 0; i < kInStep; ++i)
                gates[i] = c + i * kLanes < b.channels ? load(z + c + i * kLanes, b.channels - c - i * kLanes) : V{};
            sigmoids<kInStep>(gates);
            for (int64_t i = 0; i < kInStep && c + i * kLanes < b.channels; ++i) {
                const int64_t at = c + i * kLanes, count = b.channels - at;
                const V v = load(z + at, count), g = load(dy + at, count), gate = gates[i] * scale;
                store(dz + at, g * (gate * (1.0f + v * (1.0f - gates[i]))), count);
                store(z + at, v * gate, count);
                store(dy + at, g * (v * gate), count);
            }
        }
    }

    void close_gate(int64_t row) const {
        const float *silu = t.xz + row * s.wide + b.channels;
        float *dz = t.dxz + row * s.wide + b.channels, *y = t.y + row * s.narrow;
        for (int64_t c = 0; c < b.channels; c += kLanes) {
            const int64_t count = b.channels - c;
            const V v = load(y + c, count);
            store(dz + c, load(dz + c, count) * v, count);
            store(y + c, load(silu + c, count) * v, count);
        }
    }

    void direction(int64_t way) const {
        const float *p = shared.b.ways[way].p + first * b.tokens * s.outputs;
        for (int64_t image = first; image < end; ++image) convolve(way, image);
        for (int64_t image = first; image < end; ++image) scan(way, image);
        into(shared.dt_back[way], t.ddelta, s.narrow, t.dp, s.thin);
        float *du = t.du;
        const int64_t step = s.narrow, channels = b.channels;
        product(t.dp, s.thin, rows, shared.project_back[way], 0, shared.project_back[way].count, nullptr,
                [=](int64_t row, int64_t column, V v) {
                    float *at = du + row * step + column;
                    store(at, load(at, channels - column) + v, channels - column);
                });
        for (int64_t image = first; image < end; ++image) convolve_back(way, image);
        weight(2 + way, t.dp, s.thin, t.u, s.narrow);
        weight(4 + way, t.ddelta, s.narrow, p, s.outputs);
    }

    void convolve(int64_t way, int64_t image) const {
        const In x = from(t.xz, s.wide, image);
        const ConvForward c = {1, b.tokens, b.channels, b.taps, 1, way, x, nullptr, nullptr, to(t.u, s.narrow, image)};
        by_taps<ConvForwardTask>(b.taps)(c, 0, 0, b.tokens, shared.conv[way]);
    }

    void convolve_back(int64_t way, int64_t image) const {
        ConvBackward c = {};
        c.batch = c.threads = 1;
        c.tokens = b.tokens;
        c.channels = b.channels;
        c.taps = b.taps;
        c.reverse = c.accumulate = way;
        c.x = from(t.xz, s.wide, image);
        c.dy = from(t.du, s.narrow, image);
        c.dx = to(t.dxz, s.wide, image);
        V *const sums = reinterpret_cast<V *>(shared.conv_sums[way].of(share));
        by_taps<ConvBackwardRow>(b.taps)(c, 0, shared.conv[way], sums);
    }

    void scan(int64_t way, int64_t image) const {
        const float *p = b.ways[way].p + image * b.tokens * s.outputs;
        ScanBackward c = shared.scans[way];
        c.in.u = from(t.u, s.narrow, image);
        c.in.delta = {p, 0, s.outputs};
        c.in.B = {p + b.rank, 0, s.outputs};
        c.in.C = {p + b.rank + b.state, 0, s.outputs};
        if (b.time.data) c.in.time = {b.time.data + image * b.time.batch_stride, 0, b.time.token_stride};
        c.states = b.ways[way].states + image * kept_floats(b);
        c.dy = from(t.dy, s.narrow, image);
        c.y = to(t.y, s.narrow, image);
        c.du = to(t.du, s.narrow, image);
        c.ddelta = to(t.ddelta, s.narrow, image);
        BackwardScratch own = t.scan;
        for (int64_t group = 0; group < s.groups; ++group)
            backward_task(c, shared.parameters.of(way, group), t.partials, 0, group, own);
        const Out dp = to(t.dp + b.rank, s.thin, image);
        add_up(dp, 0, t.partials.dB, s.groups, b.tokens, b.state);
        add_up({dp.data + b.state, 0, s.thin}, 0, t.partials.dC, s.groups, b.tokens, b.state);
        if (float *dtime = shared.call.dtime) add_time(way, dtime + image * b.tokens);
        add(shared.rate_sums[way], t.partials.dA, s.padded * b.state);
        add(shared.skip_sums[way], t.partials.dD, s.padded);
        add(shared.bias_sums[way], t.partials.dbias, s.padded);
    }

    void add_time(int64_t way, float *dtime) const {
        for (int64_t token = 0; token < b.tokens; ++token) {
            float total = way ? dtime[token] : 0.0f;
            for (int64_t i = 0; i < s.groups; ++i) total += t.partials.dtime[i * b.tokens + token];
            dtime[token] = total;
        }
    }

    // dx: through the norm, and past the block.
    void finish() const {
        const In &x = b.x, &dy = shared.call.dy;
        float *dx = shared.call.dx + first * b.tokens * b.width;
        const NormBackward n = {end - first,
                                b.tokens,
                                b.width,
                                1,
                                b.eps,
                                {x.data + first * x.batch_stride, x.batch_stride, x.token_stride},
                                b.norm,
                                {t.dy, b.tokens * s.narrow, s.narrow},
                                dx,
                                nullptr};
        for (int64_t row = 0; row < rows; ++row, dx += b.width) {
            norm_backward_row(n, row, shared.norm_sums.of(share));
            const float *past = dy.data ? of_image(dy, row) : nullptr;
            for (int64_t c = 0; past && c < b.width; c += kLanes)
                store(dx + c, load(dx + c, b.width - c) + load(past + c, b.width - c), b.width - c);
        }
    }

    // Rows through a weight that is laid out.
    void into(const Panels &w, const float *from, int64_t from_step, float *to, int64_t step) const {
        const int64_t outputs = w.outputs;
        product(from, from_step, rows, w, 0, w.count, nullptr, [=](int64_t row, int64_t column, V v) {
            store(to + row * step + column, v, outputs - column);
        });
    }

    void weight(int number, const float *dy, int64_t dy_step, const float *x, int64_t x_step) const {
        if (!shared.call.din_proj) return;
        WeightGradient g = shared.product_of(number);
        g.tokens = rows;
        g.dy = dy;
        g.dy_stride = dy_step;
        g.x = x;
        g.x_stride = x_step;
        const Outer o(g);
        float *sums = shared.weights[number].of(share);
        for (int64_t panel = 0; panel < o.panels; ++panel)
            add_outer(o, panel, 0, o.down.columns, sums + panel * o.part * kWide * kLanes, t.laid);
    }

    void add(const ShareSums &sums, const float *more, int64_t floats) const {
        float *total = sums.of(share);
        for (int64_t i = 0; i < floats; i += kLanes) store(total + i, load(total + i) + load(more + i));
    }

    const float *of_image(const In &x, int64_t row) const {
        return x.data + (first + row / b.tokens) * x.batch_stride + row % b.tokens * x.token_stride;
    }
    In from(const float *rows, int64_t step, int64_t image) const {
        return {rows + (image - first) * b.tokens * step, 0, step};
    }
    Out to(float *rows, int64_t step, int64_t image) const {
        return {rows + (image - first) * b.tokens * step, 0, step};
    }
};

int one_block_backward(const BlockBackward &call) {
    const BlockForward &b = call.of;
    const int64_t threads = smaller(b.threads, call.shares);
    const BackwardSizes sizes(b);
    const int64_t shared_bytes = bytes_of<BackwardShared>(call, sizes);
    const int64_t thread_bytes = bytes_of<BackwardThread>(b, sizes, call.dtime != nullptr);
    char *const kept = static_cast<char *>(kept_scratch(shared_bytes + threads * thread_bytes));
    if (!kept) return 1;
    Scratch memory(kept);
    const BackwardShared shared(call, sizes, memory);
    const int64_t pieces = shared.pieces(), results = shared.result_pieces();
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    {
        Scratch own(kept + shared_bytes + thread_number() * thread_bytes);
        const BackwardThread t(b, sizes, call.dtime != nullptr, own);
#pragma omp for schedule(static) nowait
        for (int64_t piece = 0; piece < pieces; ++piece) shared.prepare(piece);
#pragma omp for schedule(static)
        for (int64_t piece = 0; piece < shared.parameters.pieces; ++piece) shared.prepare_scan(piece);
#pragma omp for schedule(dynamic, 1)
        for (int64_t share = 0; share < call.shares; ++share) {
            const int64_t end = (share + 1) * b.batch / call.shares;
            shared.clear(share);
            for (int64_t first = share * b.batch / call.shares; first < end; first += sizes.images)
                BackwardImages{shared, t, share, first, smaller(end, first + sizes.images)}.run();
        }
#pragma omp for schedule(static)
        for (int64_t piece = 0; piece < results; ++piece) shared.write(piece);
    }
    return 0;
}

int block_backward(const BlockBackward *calls, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        if (const int problem = one_block_backward(calls[i])) return problem;
    return 0;
}

}  // namespace
