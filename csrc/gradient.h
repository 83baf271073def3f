// The gradient of a weight: the sum over all tokens of the outer products of what came in and what went out.
#pragma once
#include "product.h"
#include "rmeeto.h"
#include "simd.h"

namespace {

using namespace rmeeto;

constexpr int64_t kSummed = 128;  // tokens whose products are added up in registers; fixed, so that sums never depend on
                                  // the threads

constexpr int64_t kAhead = 32;  // tokens: rows lie too far apart for the processor to guess the next one

struct Tokens {
    const float *data;
    int64_t stride, columns;
};

// down^T across, to be cut into tasks of some columns of each: vectors lie along `across`.
struct Outer {
    Tokens down, across;
    int64_t tokens, vectors, panels, part, parts;
    bool turned;  // down is what came in

    explicit Outer(const WeightGradient &g)
        : down{g.dy, g.dy_stride, g.outputs}, across{g.x, g.x_stride, g.inputs}, tokens(g.tokens),
          turned(g.inputs < kLanes && g.inputs < g.outputs) {
        if (turned) {
            const Tokens before = down;
            down = across;
            across = before;
        }
        vectors = ceil_div(across.columns, kLanes);
        panels = ceil_div(vectors, kWide);
        const int64_t wanted = g.threads > 1 ? ceil_div(2 * g.threads, panels) : 1;
        const int64_t least = 4 * kTileRows;  // every task lays out its panel anew
        part = ceil_div(ceil_div(down.columns, wanted), kTileRows) * kTileRows;
        if (part < least) part = least;
        parts = ceil_div(down.columns, part);
    }

    int64_t tasks() const { return panels * parts; }
    // What a task holds: its sums, (part, wide vectors), and the tokens of its panel.
    int64_t floats() const { return (part + kSummed) * kWide * kLanes; }
    // Panels differ by one vector at most.
    int64_t first(int64_t panel) const { return panel * vectors / panels; }
};

// Lay out `count` tokens of a panel, none of them behind `last`; lanes behind the last column are zero.
inline void lay_out(const Tokens &t, int64_t token, int64_t count, int64_t column, int64_t wide, int64_t last,
                    float *out) {
    for (int64_t i = 0; i < count; ++i)
        for (int64_t n = 0; n < wide; ++n, out += kLanes) {
            const int64_t at = column + n * kLanes;
            __builtin_prefetch(t.data + smaller(token + i + kAhead, last) * t.stride + at);
            store(out, load(t.data + (token + i) * t.stride + at, t.columns - at));
        }
}

// Add what all tokens give of one panel's columns and `rows` columns from `begin` on to sums, (rows, wide vectors); `laid`
// holds kSummed tokens of the panel.
inline void add_outer(const Outer &o, int64_t panel, int64_t begin, int64_t rows, float *sums, float *laid) {
    const int64_t first = o.first(panel), wide = o.first(panel + 1) - first, row = wide * kLanes;
    for (int64_t token = 0; token < o.tokens; token += kSummed) {
        const int64_t count = smaller(kSummed, o.tokens - token);
        lay_out(o.across, token, count, first * kLanes, wide, o.tokens - 1, laid);
        const Down at{o.down.data + token * o.down.stride + begin, o.down.stride};
        against_panel<kWide>(at, rows, count, laid, wide, 0, [] {}, [&](int64_t i, int64_t c, V made) {
            float *sum = sums + i * row + c;
            store(sum, load(sum) + made);
        });
    }
}

inline void write_outer(const Outer &o, int64_t panel, int64_t begin, int64_t rows, const float *sums, float *out) {
    const int64_t first = o.first(panel), row = (o.first(panel + 1) - first) * kLanes, column = first * kLanes;
    const int64_t columns = smaller(row, o.across.columns - column);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t c = 0; c < columns; ++c)
            out[o.turned ? (column + c) * o.down.columns + begin + i : (begin + i) * o.across.columns + column + c] =
                sums[i * row + c];
}

inline void outer_task(const Outer &o, int64_t panel, int64_t begin, float *out, float *scratch) {
    const int64_t rows = smaller(o.part, o.down.columns - begin), floats = o.part * kWide * kLanes;
    memset(scratch, 0, floats * sizeof(float));
    add_outer(o, panel, begin, rows, scratch, scratch + floats);
    write_outer(o, panel, begin, rows, scratch, out);
}

int weight_gradient(const WeightGradient *calls, int64_t) {
    const WeightGradient &g = *calls;
    const Outer o(g);
    const int64_t floats = o.floats(), tasks = o.tasks();
    Scratch memory(tasks * floats * int64_t(sizeof(float)));
    if (!memory.block) return 1;
    float *scratch = reinterpret_cast<float *>(memory.next);
#pragma omp parallel for schedule(dynamic) num_threads(int(smaller(g.threads, tasks))) if (g.threads > 1 && tasks > 1)
    for (int64_t task = 0; task < tasks; ++task)
        outer_task(o, task / o.parts, task % o.parts * o.part, g.dweight, scratch + task * floats);
    return 0;
}

}  // namespace
