// Tiles of products of rows: so many rows against so many vectors of columns as the registers hold. What is multiplied
// lies in panels, a few vectors of columns beside each other.
#pragma once
#include "rmeeto.h"
#include "simd.h"

namespace {

constexpr int64_t kTileRows = kLanes == 16 ? 8 : 4;
constexpr int64_t kWide = kLanes == 4 ? 2 : 3;  // vectors of columns of a tile

// Where rows lie: number `c` of row `i`, and the same seen from a row on.
struct Across {  // row by row
    const float *rows;
    int64_t stride;
    RMEETO_INLINE float operator()(int64_t i, int64_t c) const { return rows[i * stride + c]; }
    RMEETO_INLINE Across from(int64_t row) const { return {rows + row * stride, stride}; }
};
struct Down {  // each row is a column of what lies there
    const float *columns;
    int64_t stride;
    RMEETO_INLINE float operator()(int64_t i, int64_t c) const { return columns[c * stride + i]; }
    RMEETO_INLINE Down from(int64_t row) const { return {columns + row, stride}; }
};

// R rows against N vectors of columns. Every pair's sum is added up in the order of the inner numbers, whatever the tile.
// Apart: not products, but the distances |a - b|.
template <int R, int N, bool Apart, class Place>
RMEETO_INLINE void tile(Place at, int64_t inner, const float *panel, V (&total)[R][N]) {
    RMEETO_UNROLL
    for (int i = 0; i < R; ++i)
        RMEETO_UNROLL
    for (int n = 0; n < N; ++n) total[i][n] = V{};
    RMEETO_BY_FOUR
    for (int64_t c = 0; c < inner; ++c) {
        V d[N];
        RMEETO_UNROLL
        for (int n = 0; n < N; ++n) d[n] = load(panel + (c * N + n) * kLanes);
        RMEETO_UNROLL
        for (int i = 0; i < R; ++i) {
            const V s = splat(at(i, c));
            RMEETO_UNROLL
            for (int n = 0; n < N; ++n)
                total[i][n] += Apart ? magnitude(s - d[n]) : s * d[n];
        }
    }
}

// The same where the number of vectors is known only now; minus the distances.
template <int R, int N, bool Apart, class Place>
inline void tile_of(int64_t wide, Place at, int64_t inner, const float *panel, V (*sums)[kWide]) {
    if constexpr (N > 1)
        if (wide < N) return tile_of<R, N - 1, Apart>(wide, at, inner, panel, sums);
    V total[R][N];
    tile<R, N, Apart>(at, inner, panel, total);
    RMEETO_UNROLL
    for (int i = 0; i < R; ++i)
        RMEETO_UNROLL
    for (int n = 0; n < N; ++n) sums[i][n] = Apart ? -total[i][n] : total[i][n];
}

// A weight (outputs, inputs), or turned (inputs, outputs), to be read in panels of kWide vectors of outputs.
struct Panels {
    const float *weight;
    int64_t outputs, inputs, vectors, count;
    float *data;  // all panels laid out, or null: each is then laid out where it is read
    bool turned;

    static int64_t floats(int64_t outputs, int64_t inputs) { return ceil_div(outputs, kLanes) * kLanes * inputs; }

    Panels(const float *weight, int64_t outputs, int64_t inputs, float *data, bool turned = false)
        : weight(weight), outputs(outputs), inputs(inputs), vectors(ceil_div(outputs, kLanes)),
          count(ceil_div(vectors, kWide)), data(data), turned(turned) {}

    // Panels differ by one vector at most: one alone would leave the processor waiting for its sums.
    int64_t first(int64_t panel) const { return panel * vectors / count; }
    int64_t wide(int64_t panel) const { return first(panel + 1) - first(panel); }
    float *place(int64_t panel) const { return data + first(panel) * kLanes * inputs; }

    // Lay out one panel; lanes without an output are zero.
    void pack(int64_t panel, float *out) const {
        const int64_t vectors_here = wide(panel), row = vectors_here * kLanes;
        if (turned) return pack_rows(first(panel) * kLanes, out, row);
        for (int64_t vector = 0; vector < vectors_here; ++vector, out += kLanes) {
            const int64_t output = (first(panel) + vector) * kLanes;
            for (int64_t c = 0; c < inputs; c += kLanes)
                if (output + kLanes <= outputs && c + kLanes <= inputs) pack_whole(output, c, out + c * row, row);
                else pack_part(output, c, out + c * row, row);
        }
    }

    // A square of the weight turned over.
    RMEETO_INLINE void pack_whole(int64_t first, int64_t c, float *out, int64_t row) const {
        const float *from = weight + first * inputs + c;
        V v[kLanes];
        RMEETO_UNROLL
        for (int64_t i = 0; i < kLanes; ++i) {
            v[i] = load(from + i * inputs);
            __builtin_prefetch(from + (i + kWide * kLanes) * inputs);  // the next panel's
        }
        transpose<1>(v);
        RMEETO_UNROLL
        for (int64_t i = 0; i < kLanes; ++i) store(out + i * row, v[i]);
    }

    // A turned weight lies as panels do.
    void pack_rows(int64_t first, float *out, int64_t row) const {
        for (int64_t c = 0; c < inputs; ++c)
            for (int64_t i = 0; i < row; i += kLanes, out += kLanes)
                store(out, load(weight + c * outputs + first + i, outputs - first - i));
    }

    void pack_part(int64_t first, int64_t c, float *out, int64_t row) const {
        V v[kLanes];
        for (int64_t i = 0; i < kLanes; ++i)
            v[i] = first + i < outputs ? load(weight + (first + i) * inputs + c, inputs - c) : V{};
        transpose<1>(v);
        for (int64_t i = 0; i < smaller(kLanes, inputs - c); ++i) store(out + i * row, v[i]);
    }
};

// Asks for the weights of a panel that is yet to be laid out, a part at a time, while others are worked with: memory is
// far, and a panel's rows are too many streams for the processor to follow by itself.
struct Ahead {
    const char *next = nullptr, *end = nullptr;
    int64_t part = 0;

    Ahead(const Panels &w, int64_t panel, int64_t parts) {
        if (panel >= w.count || w.turned) return;
        const int64_t first = w.first(panel) * kLanes, outputs = smaller(w.wide(panel) * kLanes, w.outputs - first);
        next = reinterpret_cast<const char *>(w.weight + first * w.inputs);
        end = next + outputs * w.inputs * int64_t(sizeof(float));
        part = ceil_div(end - next, parts);
    }

    void fetch() {
        for (const char *stop = next + part; next < stop && next < end; next += 64) __builtin_prefetch(next);
    }
};

// Lay out a panel of which nothing was asked for: all of it at once, one line after the other.
inline void pack_now(const Panels &w, int64_t panel, float *out) {
    Ahead(w, panel, 1).fetch();
    w.pack(panel, out);
}

// Lay out one of the panels of some weights, which are numbered through.
inline void pack_piece(const Panels *const *weights, int64_t piece) {
    for (; piece >= (*weights)->count; ++weights) piece -= (*weights)->count;
    pack_now(**weights, piece, (*weights)->place(piece));
}

// What is left below a whole tile: `rows` of at most R.
template <int R, class Place, class See>
inline void last_rows(int64_t rows, Place at, int64_t row, int64_t inner, const float *panel, int64_t wide,
                      int64_t first, See see) {
    if constexpr (R > 1)
        if (rows < R) return last_rows<R - 1>(rows, at, row, inner, panel, wide, first, see);
    V sums[R][kWide];
    tile_of<R, kWide, false>(wide, at.from(row), inner, panel, sums);
    for (int64_t i = 0; i < R; ++i)
        for (int64_t n = 0; n < wide; ++n) see(row + i, first + n * kLanes, sums[i][n]);
}

// Some rows against one panel of at most N vectors, tile by tile: `see(row, column, vector)` for every vector, the
// panel's columns from `first` on; `between()` before every tile. Sums of whole tiles are seen where they were made, in
// registers.
template <int N, class Place, class Between, class See>
RMEETO_INLINE void against_panel(Place at, int64_t rows, int64_t inner, const float *panel, int64_t wide, int64_t first,
                                 Between between, See see) {
    if constexpr (N > 1)
        if (wide < N) return against_panel<N - 1>(at, rows, inner, panel, wide, first, between, see);
    int64_t row = 0;
    for (; row + kTileRows <= rows; row += kTileRows) {
        between();
        V sums[kTileRows][N];
        tile<kTileRows, N, false>(at.from(row), inner, panel, sums);
        RMEETO_UNROLL
        for (int64_t i = 0; i < kTileRows; ++i)
            RMEETO_UNROLL
        for (int64_t n = 0; n < N; ++n) see(row + i, first + n * kLanes, sums[i][n]);
    }
    between();
    if (row < rows) last_rows<kTileRows - 1>(rows - row, at, row, inner, panel, wide, first, see);
}

// x W^T of some rows, `stride` floats apart, and the panels [begin, end): `see(row, first output, vector)` for every
// vector of outputs. `room` holds a panel that is not laid out.
template <class See>
inline void product(const float *x, int64_t stride, int64_t rows, const Panels &w, int64_t begin, int64_t end,
                    float *room, See see) {
    for (int64_t number = begin; number < end; ++number) {
        if (!w.data && number == begin) pack_now(w, number, room);
        else if (!w.data) w.pack(number, room);
        const float *panel = w.data ? w.place(number) : room;
        Ahead ahead(w, w.data ? w.count : number + 1, ceil_div(rows, kTileRows));
        against_panel<kWide>(Across{x, stride}, rows, w.inputs, panel, w.wide(number), w.first(number) * kLanes,
                      [&] { ahead.fetch(); }, see);
    }
}

}  // namespace
