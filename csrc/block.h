// A block's parts: norm, projection, convolution, scan, gate, projection, sum, merge. What lies between is of one image
// at a time, or of several with few tokens, and stays in the caches; nothing but the results is written for all images,
// and for gradients the states at the start of every chunk. block_forward.h puts the parts together.
#pragma once
#include "conv.h"
#include "merge.h"
#include "norm.h"
#include "product.h"

namespace {

constexpr int64_t kRowFloats = 1 << 17;   // of rows that pass all panels of a weight in one go
constexpr int64_t kOwnPanels = 1 << 20;   // floats of rows up to which a panel is laid out by the task that reads it
constexpr int64_t kManyImages = 4;        // from so many on, weights are laid out once for all of them

inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

inline int64_t rows_at_once(const BlockForward &b) {
    return larger(kRowFloats / larger(b.width, b.channels), kTileRows);
}

// Whether weights are laid out beforehand. Elsewhere that would pay for too few rows: what is laid out of a wide weight
// leaves a core's own cache before it is read, and is fetched again for every few rows.
inline bool lays_out(const BlockForward &b) {
    return b.batch >= kManyImages || b.tokens * larger(b.width, b.channels) > kOwnPanels;
}

// Images that share the rows of a product, for with few tokens one image would read all weights for a few rows: sets as
// large as each other, and as many for every thread, wherever the batch allows it.
struct Sets {
    int64_t batch, count;

    Sets(const BlockForward &b, int64_t threads) : batch(b.batch), count(b.batch) {
        if (b.x.batch_stride != b.tokens * b.x.token_stride) return;
        const int64_t most = larger(rows_at_once(b) / b.tokens, 1);
        count = smaller(batch, ceil_div(batch, most * threads) * threads);
    }

    int64_t begin(int64_t set) const { return set * batch / count; }
    int64_t largest() const { return ceil_div(batch, count); }
};

// How a product over rows is cut into tasks: some rows and all panels of a laid-out weight, or all rows and one panel,
// which its task lays out. Rows are dealt out in whole tiles and as evenly as these allow, so that no thread waits long.
struct Cut {
    int64_t total, tiles, row_tasks;

    Cut(const BlockForward &b, int64_t total, int64_t threads) : total(total), tiles(ceil_div(total, kTileRows)) {
        const int64_t rounds = ceil_div(total, rows_at_once(b) * threads);
        row_tasks = smaller(tiles, rounds * threads);
    }

    int64_t begin(int64_t task) const { return smaller(total, task * tiles / row_tasks * kTileRows); }
    int64_t end(int64_t task) const { return begin(task + 1); }

    struct Part {
        int64_t begin, end, first_panel, end_panel;  // rows [begin, end) and panels [first_panel, end_panel)
    };
    int64_t tasks(const Panels &w) const { return w.data ? row_tasks : w.count; }
    Part part(const Panels &w, int64_t task) const {
        return w.data ? Part{begin(task), end(task), 0, w.count} : Part{0, total, task, task + 1};
    }
};

// One image or several between their projections, all tokens in one sequence of rows. The normed tokens lie where one
// direction's convolution will, the scan's result where the other half was convolved. Rows are an odd number of cache
// lines apart: powers of two would crowd one channel's tokens into a few sets of the first cache.
struct BlockImages {
    int64_t wide, narrow;        // floats from row to row
    float *xz, *u[2];            // (rows, 2 channels), (rows, channels)
    int64_t first = 0, end = 0;  // of the batch

    static int64_t odd(int64_t floats) { return (ceil_div(floats, 16) | 1) * 16; }
    static int64_t narrow_of(const BlockForward &b) { return odd(larger(b.channels, b.width)); }

    BlockImages(const BlockForward &b, int64_t images, Scratch &memory)
        : wide(odd(2 * b.channels)), narrow(narrow_of(b)) {
        xz = memory.array<float>(images * b.tokens * wide);
        for (float *&each : u) each = memory.array<float>(images * b.tokens * narrow);
    }

    // The same memory with other images in it.
    BlockImages with(int64_t first_image, int64_t end_image) const {
        BlockImages other = *this;
        other.first = first_image;
        other.end = end_image;
        return other;
    }
};

// What each thread has for itself: a panel and the states of a scan.
struct BlockThread {
    float *panel;
    V *h;

    BlockThread(const BlockForward &b, Scratch &memory)
        : panel(memory.array<float>(kWide * kLanes * larger(b.width, b.channels))),
          h(memory.vectors(kForwardGroup / kLanes * b.state)) {}
};

// One piece of the scans' parameters, a group of channels of a direction, and before it A = -exp(A_log) of these.
template <class Call>
inline void prepare_scan(const BlockForward &b, float *const *A, const SharedParameters<Call> &parameters,
                         int64_t piece) {
    const int64_t way = piece / parameters.groups, channel = piece % parameters.groups * parameters.width;
    const int64_t end = smaller(b.channels, channel + parameters.width) * b.state;
    const float *A_log = b.ways[way].A_log;
    for (int64_t i = channel * b.state; i < end; i += kInStep * kLanes) {
        V v[kInStep];
        for (int64_t k = 0; k < kInStep; ++k)
            v[k] = i + k * kLanes < end ? load(A_log + i + k * kLanes, end - i - k * kLanes) : V{};
        exps<kInStep>(v);
        for (int64_t k = 0; k < kInStep && i + k * kLanes < end; ++k)
            store(A[way] + i + k * kLanes, -v[k], end - i - k * kLanes);
    }
    parameters.prepare(piece);
}

// What the scans of all images have in common.
inline ScanInputsOf scan_inputs(const BlockForward &b, int64_t way, const float *A) {
    const BlockDirection &d = b.ways[way];
    ScanInputsOf in = {};
    in.batch = in.threads = 1;
    in.tokens = b.tokens;
    in.channels = b.channels;
    in.state = b.state;
    in.rank = b.rank;
    in.softplus = 1;
    in.reverse = in.accumulate = way;
    in.scale = b.scale;
    in.A = A;
    in.D = d.D;
    in.bias = d.dt_bias;
    in.W = d.dt_weight;
    return in;
}

// Floats of the states that a scan of one image keeps.
inline int64_t kept_floats(const BlockForward &b) {
    return ceil_div(b.tokens, kChunk) * b.state * ceil_div(b.channels, kChannelPad) * kChannelPad;
}

// Everything of a call that is the same for all images.
struct BlockShared {
    const BlockForward &b;
    int64_t outputs;  // of the projection to dt, B and C
    V *conv[2];
    float *A[2];
    Panels in, project[2], out;
    ScanForward scans[2];
    SharedParameters<ScanForward> parameters;

    Panels panels(const float *weight, int64_t outputs, int64_t inputs, Scratch *memory) const {
        return Panels(weight, outputs, inputs,
                      memory ? memory->array<float>(Panels::floats(outputs, inputs)) : nullptr);
    }

    BlockShared(const BlockForward &b, bool laid_out, Scratch &memory)
        : b(b), outputs(b.rank + 2 * b.state), conv{memory.vectors(arranged_size(b)), memory.vectors(arranged_size(b))},
          A{memory.array<float>(b.channels * b.state), memory.array<float>(b.channels * b.state)},
          in(panels(b.in_proj, 2 * b.channels, b.width, laid_out ? &memory : nullptr)),
          project{panels(b.ways[0].projection, outputs, b.channels, &memory),
                  panels(b.ways[1].projection, outputs, b.channels, &memory)},
          out(panels(b.out_proj, b.width, b.channels, laid_out ? &memory : nullptr)), scans{scan(0), scan(1)},
          parameters(scans, 2, kForwardGroup, memory) {}
    BlockShared(const BlockShared &) = delete;

    // One direction's scan, of no image yet.
    ScanForward scan(int64_t way) const {
        ScanForward call = {};
        call.in = scan_inputs(b, way, A[way]);
        return call;
    }

    // Weights are laid out in so many pieces.
    int64_t pieces() const { return project[0].count + project[1].count + 2 + (in.data ? in.count + out.count : 0); }

    void prepare_scan(int64_t piece) const { ::prepare_scan(b, A, parameters, piece); }

    void prepare(int64_t piece) const {
        const Panels *const all[] = {&project[0], &project[1], &in, &out};
        if (piece < 2)
            return arrange_weight(b.ways[piece].conv_weight, b.ways[piece].conv_bias, b.channels, b.taps, conv[piece]);
        pack_piece(all, piece - 2);
    }

    void norm(const BlockImages &t, int64_t begin, int64_t end) const {
        const float *x = b.x.data + t.first * b.x.batch_stride;
        for (int64_t row = begin; row < end; ++row)
            norm_row(x + row * b.x.token_stride, b.norm, b.width, b.eps, t.u[0] + row * t.narrow);
    }

    // Normed tokens to u and z beside each other.
    void project_in(const BlockImages &t, const Cut &cut, int64_t task, float *room) const {
        const int64_t width = 2 * b.channels, step = t.wide;
        const Cut::Part part = cut.part(in, task);
        float *xz = t.xz + part.begin * step;
        product(t.u[0] + part.begin * t.narrow, t.narrow, part.end - part.begin, in, part.first_panel, part.end_panel,
                room, [=](int64_t row, int64_t first, V v) { store(xz + row * step + first, v, width - first); });
    }

    // Rows [begin, end), convolved in both directions, and their dt, B and C.
    void convolve(const BlockImages &t, int64_t begin, int64_t end) const {
        const auto run = by_taps<ConvForwardTask>(b.taps);
        const int64_t width = outputs;
        for (int64_t way = 0; way < 2; ++way) {
            ConvForward call = {};
            call.batch = call.threads = 1;
            call.tokens = b.tokens;
            call.channels = b.channels;
            call.taps = b.taps;
            call.reverse = way;
            for (int64_t image = begin / b.tokens, start; (start = image * b.tokens) < end; ++image) {
                const int64_t from = larger(begin - start, 0), to = smaller(end - start, b.tokens);
                call.x = {t.xz + start * t.wide, 0, t.wide};
                call.y = {t.u[way] + start * t.narrow, 0, t.narrow};
                run(call, 0, way ? b.tokens - to : from, way ? b.tokens - from : to, conv[way]);
            }
            float *p = b.ways[way].p + (t.first * b.tokens + begin) * width;
            product(t.u[way] + begin * t.narrow, t.narrow, end - begin, project[way], 0, project[way].count, nullptr,
                    [=](int64_t row, int64_t first, V v) { store(p + row * width + first, v, width - first); });
        }
    }

    // One group of channels of all images through both scans.
    void scan_group(const BlockImages &t, int64_t group, V *h) const {
        for (int64_t image = t.first; image < t.end; ++image)
            for (int64_t way = 0; way < 2; ++way) {
                ScanForward call = scans[way];
                const int64_t row = (image - t.first) * b.tokens;
                const float *p = b.ways[way].p + image * b.tokens * outputs;
                call.in.u = {t.u[way] + row * t.narrow, 0, t.narrow};
                call.in.delta = {p, 0, outputs};
                call.in.B = {p + b.rank, 0, outputs};
                call.in.C = {p + b.rank + b.state, 0, outputs};
                if (way) call.in.z = {t.xz + row * t.wide + b.channels, 0, t.wide};
                if (b.time.data) call.in.time = {b.time.data + image * b.time.batch_stride, 0, b.time.token_stride};
                call.y = {t.xz + row * t.wide, 0, t.wide};
                if (float *kept = b.ways[way].states) call.states = kept + image * kept_floats(b);
                forward_task(call, 0, group * kForwardGroup, parameters.of(way, group), h);
            }
    }

    // The scans' sum to the results, or, where they are merged yet, to where the convolved rows were.
    void project_out(const BlockImages &t, const Cut &cut, int64_t task, float *room) const {
        const Cut::Part part = cut.part(out, task);
        const int64_t begin = part.begin;
        const int64_t width = b.width, step = b.x.token_stride, row_step = b.merged ? t.narrow : width;
        const int64_t first_row = b.merged ? begin : t.first * b.tokens + begin;
        const float *x = b.x.data + t.first * b.x.batch_stride + begin * step;
        const bool wanted = b.merged || b.hidden;
        float *hidden = wanted ? (b.merged ? t.u[1] : b.hidden) + first_row * row_step : nullptr;
        float *y = (b.merged ? t.u[0] : b.y) + first_row * row_step;
        product(t.xz + begin * t.wide, t.wide, part.end - begin, out, part.first_panel, part.end_panel, room,
                [=](int64_t row, int64_t first, V v) {
                    const int64_t count = width - first;
                    if (wanted) store(hidden + row * row_step + first, v, count);
                    store(y + row * row_step + first, load(x + row * step + first, count) + v, count);
                });
    }

    // Merge the tokens of one of the images; what a kernel answers.
    int merge(const BlockImages &t, int64_t image) const {
        const int64_t start = (image - t.first) * b.tokens * t.narrow;
        BipartiteMerge m = b.merge;
        m.batch = b.batch;
        m.tokens = b.tokens;
        m.channels = m.width = b.width;
        m = one_image(m, image);
        m.x = {t.u[0] + start, 0, t.narrow};
        m.values = {t.u[b.by_stream ? 0 : 1] + start, 0, t.narrow};
        return merge_images(m);
    }
};

}  // namespace
