// The plain C interface between Python (ctypes) and the kernels.
// Every field is 8 bytes wide, so that Python packs a call with one struct.pack("q"...).
// Strides are counted in floats; the last dimension of every tensor is contiguous.
#pragma once
#include <cstdint>

#if defined(_WIN32)
#define RMEETO_EXPORT extern "C" __declspec(dllexport)
#else
#define RMEETO_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace rmeeto {

// Rows of a (batch, token, channel) tensor; data is null where the optional input is absent.
template <class T>
struct Rows {
    T *data;
    int64_t batch_stride;
    int64_t token_stride;
};
using In = Rows<const float>;
using Out = Rows<float>;

// One direction of a scan: y = (before + scan(u, delta, A, B, C) + D u) silu(z) scale, where before is what y holds already
// (accumulate) or zero. With rank > 0 the rows of delta hold dt (rank numbers) and delta = W dt. Several calls are made in
// one go: each task runs them one after the other, so that what one leaves in y the next finds in the cache.
struct ScanInputsOf {
    int64_t batch, tokens, channels, state, rank, threads, softplus, reverse, accumulate;
    double scale;
    In u, delta, B, C, z, time;
    const float *A, *D, *bias, *W;
};

struct ScanForward {
    ScanInputsOf in;
    Out y;
    float *states;  // the state at the start of every chunk, (batch, chunks, state, padded channels), or null
};

// Gradients; a null pointer means that nobody needs this one. accumulate: dz is added to what is there. Also y may be asked
// for anew, before the gate; it is added, too.
struct ScanBackward {
    ScanInputsOf in;
    const float *states;
    In dy;
    Out y;
    Out du, ddelta, dz;  // (batch, tokens, channels); ddelta is W dt's where rank > 0
    Out dB, dC;          // (batch, tokens, state)
    float *dtime;        // (batch, tokens)
    float *dA;           // (channels, state)
    float *dD, *dbias;   // (channels)
};

// y = silu(bias + depthwise causal convolution of x); weight is (channels, taps).
struct ConvForward {
    int64_t batch, tokens, channels, taps, threads, reverse;
    In x;
    const float *weight, *bias;
    Out y;
};

struct ConvBackward {
    int64_t batch, tokens, channels, taps, threads, reverse, accumulate;
    In x;
    const float *weight, *bias;
    In dy;
    Out dx;          // (batch, tokens, channels); accumulate: added to what is there
    float *dweight;  // (channels, taps)
    float *dbias;    // (channels)
};

// y = x weight / sqrt(mean(x^2) + eps), token by token; y and dx are dense.
struct NormForward {
    int64_t batch, tokens, channels, threads;
    double eps;
    In x;
    const float *weight;
    float *y;
};

struct NormBackward {
    int64_t batch, tokens, channels, threads;
    double eps;
    In x;
    const float *weight;
    In dy;
    float *dx;       // (batch, tokens, channels)
    float *dweight;  // (channels)
};

// dweight = dy^T x, the gradient of the weight of y = x weight^T.
struct WeightGradient {
    int64_t tokens, outputs, inputs, threads;
    const float *dy;  // (tokens, outputs), rows dy_stride floats apart
    int64_t dy_stride;
    const float *x;  // (tokens, inputs)
    int64_t x_stride;
    float *dweight;  // (outputs, inputs), dense
};

// Every second patch token from row `first` on is a source; the `rank`-th most similar of the others is its destination.
// similarity: 0 cosine, 1 minus the L1 distance, 2 minus the squared L2 distance of the normalised rows.
struct TokenMatch {
    int64_t batch, tokens, width, protecteds, removed, similarity, rank, first, by_sequence, threads;
    In values;              // (batch, tokens, width)
    const int64_t *places;  // (batch, protecteds)
    const int64_t *rows;    // (batch, tokens - protecteds), the place of each row, or null: in order of the sequence
    int64_t *leaving, *joined;  // (batch, removed) rows, the most similar first
    int64_t *staying;           // (batch, sources - removed) rows, so ranked, or by sequence
    float *best;                // (batch, sources) similarity to the one that was chosen
};

// The new place of every token where `leaving` rows join others. Not ordered: heads come first.
struct TokenPlan {
    int64_t batch, tokens, protecteds, removed, head_count, ordered, official;
    const int64_t *leaving, *joined, *heads;  // rows
    const int64_t *places, *rows;             // as in TokenMatch
    int64_t *index;                           // (batch, tokens)
    uint8_t *kept;                            // (batch, tokens), 0 where a token leaves, or null
};

// Which tokens become one: index (batch, tokens) in [0, length), size (batch, tokens) or null for ones, kept 0 or 1
// (batch, tokens) or null.
struct MergeGroups {
    int64_t batch, tokens, length, channels, threads;
    const int64_t *index;
    const float *size;
    const uint8_t *kept;
};

// Each group's mean by size; sizes (batch, length) add up, or are forgotten; moved: the new places (batch, protecteds).
struct TokenMerge {
    MergeGroups groups;
    int64_t protecteds, forget;
    In x;
    const int64_t *places;
    float *y, *sizes;
    int64_t *moved;
};

struct TokenMergeBackward {
    MergeGroups groups;
    In dy;
    float *dx;
};

// A match, its plan, whose heads are the sources that stay, and the merge in one go: see TokenMatch, TokenPlan, TokenMerge.
struct BipartiteMerge {
    int64_t batch, tokens, width, channels, protecteds, removed, similarity, rank, first, by_sequence, ordered, official;
    int64_t forget, threads;
    In values, x;           // (batch, tokens, width), (batch, tokens, channels)
    const int64_t *places;  // (batch, protecteds)
    const float *size;      // (batch, tokens), or null for ones
    int64_t *index;         // (batch, tokens)
    uint8_t *kept;          // (batch, tokens), or null
    float *y, *sizes;       // (batch, tokens - removed, channels), (batch, tokens - removed)
    int64_t *moved;         // (batch, protecteds)
};

// A whole block: hidden = W_out mixer(W_in norm(x)), y = x + hidden, the mixer in both directions. y, hidden and p are
// dense. Tokens may be merged in the same go, image by image.
struct BlockDirection {
    const float *conv_weight, *conv_bias;  // (channels, taps), (channels)
    const float *projection;               // (rank + 2 state, channels)
    const float *dt_weight, *dt_bias;      // (channels, rank), (channels)
    const float *A_log, *D;                // (channels, state), (channels)
    float *p;                              // (batch, tokens, rank + 2 state): dt, B and C
    float *states;                         // as in ScanForward, or null
};

struct BlockForward {
    int64_t batch, tokens, width, channels, state, rank, taps, threads;
    double eps, scale;
    In x, time;
    const float *norm, *in_proj, *out_proj;  // (width), (2 channels, width), (width, channels)
    BlockDirection ways[2];                  // forward, backward
    float *y, *hidden;                       // (batch, tokens, width); hidden may be null, and is not written where
                                             // tokens are merged
    int64_t merged, by_stream;               // whether they are; by likeness of y instead of hidden
    BipartiteMerge merge;                    // of x: y; its values, x, tokens, channels and threads are not read
};

// The gradients of a block that kept p and states and merged nothing; what else it computed is computed again. So many
// shares of the batch are each added up by one thread, and then one after the other: sums depend on their number only.
struct BlockGradients {
    float *conv_weight, *conv_bias, *projection, *dt_weight, *dt_bias, *A_log, *D;  // as in BlockDirection
};

struct BlockBackward {
    BlockForward of;  // y, hidden and merge are not read
    int64_t shares;   // from 1 to batch
    In dy, dhidden;   // either may be null
    float *dx;        // (batch, tokens, width)
    float *dtime;     // (batch, tokens), or null
    float *dnorm, *din_proj, *dout_proj;
    BlockGradients ways[2];
};

static_assert(sizeof(void *) == 8, "the call structures are packed as 8-byte fields");

// What one instruction set offers. Every function runs `count` calls of the same batch and channels (of norms,
// weights and tokens: one; of blocks: any, each of which reads what the one before it wrote for the same images, and none
// has more tokens), and returns 0, 1 when memory ran out, or 2 where an index is outside.
struct Kernels {
    const char *name;
    int (*scan_forward)(const ScanForward *, int64_t count);
    int (*scan_backward)(const ScanBackward *, int64_t count);
    int (*conv_forward)(const ConvForward *, int64_t count);
    int (*conv_backward)(const ConvBackward *, int64_t count);
    int (*norm_forward)(const NormForward *, int64_t count);
    int (*norm_backward)(const NormBackward *, int64_t count);
    int (*weight_gradient)(const WeightGradient *, int64_t count);
    int (*block_forward)(const BlockForward *, int64_t count);
    int (*block_backward)(const BlockBackward *, int64_t count);
    int (*token_match)(const TokenMatch *, int64_t count);
    int (*token_plan)(const TokenPlan *, int64_t count);
    int (*token_merge)(const TokenMerge *, int64_t count);
    int (*token_merge_backward)(const TokenMergeBackward *, int64_t count);
    int (*bipartite_merge)(const BipartiteMerge *, int64_t count);
    void (*map)(int64_t function, int64_t count, const float *x, float *y);  // for the tests of exp and friends
};

// Scratch memory that the calling thread keeps from call to call (see dispatch.cpp); null where memory ran out.
void *kept_scratch(int64_t bytes);

// Lets other threads run, where this one has nothing to do but to wait for them.
void give_way();

constexpr int64_t kChunk = 16;    // tokens between two kept states
constexpr int64_t kChannelPad = 16;  // kept states are padded to a multiple of this many channels

}  // namespace rmeeto
