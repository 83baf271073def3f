// What the gradients of a block have in common for all images of a call: sizes, scratch memory, laid-out weights, sums.
#pragma once
#include "block.h"
#include "gradient.h"
#include "scan_backward.h"

namespace {

constexpr int64_t kGroupTokens = 128;  // images that go together have about so many tokens, or are one
constexpr int kWeights = 6;            // into the block, out of it, and per direction to (dt, B, C) and to delta

// Sums over images, a row of numbers for each share.
struct ShareSums {
    float *data;
    int64_t floats;

    ShareSums(Scratch &memory, int64_t shares, int64_t floats)
        : data(memory.array<float>(shares * floats)), floats(floats) {}
    float *of(int64_t share) const { return data + share * floats; }
    void clear(int64_t share) const { memset(of(share), 0, floats * sizeof(float)); }
};

// Sizes of a call; rows of scratch memory lie an odd number of cache lines apart, as in `BlockImages`.
struct BackwardSizes {
    int64_t outputs, padded, groups;   // of a direction's projection; channels of kept states; groups of channels
    int64_t images, rows;              // that go together at most, and their tokens
    int64_t slim, narrow, wide, thin;  // floats from row to row: width, channels, 2 channels, outputs

    explicit BackwardSizes(const BlockForward &b)
        : outputs(b.rank + 2 * b.state), padded(ceil_div(b.channels, kChannelPad) * kChannelPad),
          groups(ceil_div(b.channels, kBackwardGroup)), images(larger(kGroupTokens / b.tokens, 1)),
          rows(images * b.tokens), slim(BlockImages::odd(b.width)), narrow(BlockImages::narrow_of(b)),
          wide(BlockImages::odd(2 * b.channels)), thin(BlockImages::odd(outputs)) {}
};

// What each thread has for itself: a few images, of one direction after the other.
struct BackwardThread {
    float *normed, *dhidden;          // (rows, width)
    float *xz, *dxz;                  // (rows, 2 channels)
    float *u, *du, *ddelta, *dy, *y;  // (rows, channels): convolved; dy and y of the gated sum. At last dy holds the
                                      // gradient of the normed tokens
    float *dp;                        // (rows, outputs)
    float *laid;                      // tokens of a panel
    Partials partials;                // of one image
    BackwardScratch scan;

    BackwardThread(const BlockForward &b, const BackwardSizes &s, bool timed, Scratch &memory)
        : normed(memory.array<float>(s.rows * s.slim)), dhidden(memory.array<float>(s.rows * s.slim)),
          xz(memory.array<float>(s.rows * s.wide)), dxz(memory.array<float>(s.rows * s.wide)),
          dp(memory.array<float>(s.rows * s.thin)), laid(memory.array<float>(kSummed * kWide * kLanes)),
          partials{}, scan(take_scratch(memory, b.state)) {
        float **const rows[] = {&u, &du, &ddelta, &dy, &y};
        for (float **each : rows) *each = memory.array<float>(s.rows * s.narrow);
        partials.groups = s.groups;
        partials.padded = s.padded;
        partials.dB = memory.array<float>(s.groups * b.tokens * b.state);
        partials.dC = memory.array<float>(s.groups * b.tokens * b.state);
        partials.dtime = timed ? memory.array<float>(s.groups * b.tokens) : nullptr;
        partials.dA = memory.array<float>(s.padded * b.state);
        partials.dD = memory.array<float>(s.padded);
        partials.dbias = memory.array<float>(s.padded);
    }
};

// Everything of a call that is the same for all images, and its sums.
struct BackwardShared {
    const BlockBackward &call;
    const BlockForward &b;
    const BackwardSizes &s;
    V *conv[2];
    float *A[2];
    Panels in, in_back, out_back, project_back[2], dt_back[2];
    const Panels *const all[7] = {&in,         &in_back,    &out_back, &project_back[0], &project_back[1],
                                  &dt_back[0], &dt_back[1]};
    ShareSums weights[kWeights], rate_sums[2], skip_sums[2], bias_sums[2], conv_sums[2], norm_sums;
    ScanBackward scans[2];
    SharedParameters<ScanBackward> parameters;

    BackwardShared(const BlockBackward &call, const BackwardSizes &s, Scratch &memory)
        : call(call), b(call.of), s(s), conv{memory.vectors(arranged_size(b)), memory.vectors(arranged_size(b))},
          A{memory.array<float>(b.channels * b.state), memory.array<float>(b.channels * b.state)},
          in(panels(b.in_proj, 2 * b.channels, b.width, false, memory)),
          in_back(panels(b.in_proj, b.width, 2 * b.channels, true, memory)),
          out_back(panels(b.out_proj, b.channels, b.width, true, memory)),
          project_back{panels(b.ways[0].projection, b.channels, s.outputs, true, memory),
                       panels(b.ways[1].projection, b.channels, s.outputs, true, memory)},
          dt_back{panels(b.ways[0].dt_weight, b.rank, b.channels, true, memory),
                  panels(b.ways[1].dt_weight, b.rank, b.channels, true, memory)},
          weights{weight_sums(0, memory), weight_sums(1, memory), weight_sums(2, memory),
                  weight_sums(3, memory), weight_sums(4, memory), weight_sums(5, memory)},
          rate_sums{sums(s.padded * b.state, memory), sums(s.padded * b.state, memory)},
          skip_sums{sums(s.padded, memory), sums(s.padded, memory)},
          bias_sums{sums(s.padded, memory), sums(s.padded, memory)},
          conv_sums{sums(arranged_size(b) * kLanes, memory), sums(arranged_size(b) * kLanes, memory)},
          norm_sums(sums(s.slim, memory)), scans{scan(0), scan(1)}, parameters(scans, 2, kBackwardGroup, memory) {}
    BackwardShared(const BackwardShared &) = delete;

    static Panels panels(const float *weight, int64_t outputs, int64_t inputs, bool turned, Scratch &memory) {
        return Panels(weight, outputs, inputs, memory.array<float>(Panels::floats(outputs, inputs)), turned);
    }

    ShareSums sums(int64_t floats, Scratch &memory) const { return ShareSums(memory, call.shares, floats); }

    ShareSums weight_sums(int number, Scratch &memory) const {
        const Outer o(product_of(number));
        return sums(call.din_proj ? o.panels * o.part * kWide * kLanes : 0, memory);
    }

    // The gradient of one of the weights, of no tokens yet.
    WeightGradient product_of(int number) const {
        const int way = number % 2;
        const BlockGradients &d = call.ways[way];
        const int64_t sizes[3][2] = {{2 * b.channels, b.width}, {s.outputs, b.channels}, {b.channels, b.rank}};
        float *const places[3] = {call.din_proj, d.projection, d.dt_weight};
        if (number == 1) return {0, b.width, b.channels, 1, nullptr, 0, nullptr, 0, call.dout_proj};
        return {0, sizes[number / 2][0], sizes[number / 2][1], 1, nullptr, 0, nullptr, 0, places[number / 2]};
    }

    // One direction's scan, of no image yet.
    ScanBackward scan(int64_t way) const {
        ScanBackward made = {};
        made.in = scan_inputs(b, way, A[way]);
        return made;
    }

    int64_t pieces() const {
        int64_t total = 2;
        for (const Panels *each : all) total += each->count;
        return total;
    }

    void prepare_scan(int64_t piece) const { ::prepare_scan(b, A, parameters, piece); }

    void prepare(int64_t piece) const {
        if (piece < 2)
            return arrange_weight(b.ways[piece].conv_weight, b.ways[piece].conv_bias, b.channels, b.taps, conv[piece]);
        pack_piece(all, piece - 2);
    }

    void clear(int64_t share) const {
        for (const ShareSums &each : weights) each.clear(share);
        for (int64_t way = 0; way < 2; ++way) {
            rate_sums[way].clear(share);
            skip_sums[way].clear(share);
            bias_sums[way].clear(share);
            conv_sums[way].clear(share);
        }
        norm_sums.clear(share);
    }

    // One piece of the results: a panel of a weight, or all that is small.
    int64_t result_pieces() const {
        int64_t total = 1;
        for (int i = 0; call.din_proj && i < kWeights; ++i) total += Outer(product_of(i)).panels;
        return total;
    }

    void write(int64_t piece) const {
        if (!call.din_proj) return;
        for (int i = 0; i < kWeights; ++i) {
            const WeightGradient g = product_of(i);
            const Outer o(g);
            if (piece < o.panels) return write_panel(o, piece, weights[i], g.dweight);
            piece -= o.panels;
        }
        for (int64_t way = 0; way < 2; ++way) write_small(way);
        for (int64_t c = 0; c < b.width; ++c) {
            call.dnorm[c] = 0;
            for (int64_t share = 0; share < call.shares; ++share) call.dnorm[c] += norm_sums.of(share)[c];
        }
    }

    void write_panel(const Outer &o, int64_t panel, const ShareSums &sums, float *out) const {
        const int64_t floats = o.part * kWide * kLanes;
        float *total = sums.data + panel * floats;
        for (int64_t share = 1; share < call.shares; ++share)
            for (int64_t i = 0; i < floats; i += kLanes)
                store(total + i, load(total + i) + load(sums.of(share) + panel * floats + i));
        write_outer(o, panel, 0, o.down.columns, total, out);
    }

    void write_small(int64_t way) const {
        const BlockGradients &d = call.ways[way];
        const int64_t shares = call.shares, size = b.channels * b.state;
        for (int64_t k = 0; k < b.state; ++k)
            add_batch(d.A_log + k, b.state, rate_sums[way].data + k * s.padded, shares, s.padded * b.state, b.channels);
        for (int64_t i = 0; i < size; ++i) d.A_log[i] *= A[way][i];
        add_batch(d.D, 1, skip_sums[way].data, shares, s.padded, b.channels);
        add_batch(d.dt_bias, 1, bias_sums[way].data, shares, s.padded, b.channels);
        ConvBackward c = {};
        c.batch = shares;
        c.channels = b.channels;
        c.dweight = d.conv_weight;
        c.dbias = d.conv_bias;
        by_taps<ConvAddSums>(b.taps)(c, reinterpret_cast<const V *>(conv_sums[way].data), ceil_div(b.channels, kLanes));
    }
};

}  // namespace
