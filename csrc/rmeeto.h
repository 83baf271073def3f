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

// y = scan(u, delta, A, B, C, D, z); states keeps the state at the start of every chunk for the backward pass.
struct ScanForward {
    int64_t batch, tokens, channels, state, threads, softplus, reverse;
    In u, delta, B, C, z, time;
    const float *A, *D, *bias;
    Out y;
    float *states;  // (batch, chunks, state, padded channels) or null
};

// Gradients; a null pointer means that nobody needs this one.
struct ScanBackward {
    int64_t batch, tokens, channels, state, threads, softplus, reverse;
    In u, delta, B, C, z, time;
    const float *A, *D, *bias;
    const float *states;
    In dy;
    float *du, *ddelta, *dz;  // (batch, tokens, channels)
    float *dB, *dC;           // (batch, tokens, state)
    float *dtime;             // (batch, tokens)
    float *dA;                // (channels, state)
    float *dD, *dbias;        // (channels)
};

// y = silu(bias + depthwise causal convolution of x); weight is (channels, taps).
struct ConvForward {
    int64_t batch, tokens, channels, taps, threads, reverse;
    In x;
    const float *weight, *bias;
    Out y;
};

struct ConvBackward {
    int64_t batch, tokens, channels, taps, threads, reverse;
    In x;
    const float *weight, *bias;
    In dy;
    float *dx;       // (batch, tokens, channels)
    float *dweight;  // (channels, taps)
    float *dbias;    // (channels)
};

static_assert(sizeof(void *) == 8, "the call structures are packed as 8-byte fields");

// What one instruction set offers. Every function returns 0, or 1 when memory ran out.
struct Kernels {
    const char *name;
    int (*scan_forward)(const ScanForward &);
    int (*scan_backward)(const ScanBackward &);
    int (*conv_forward)(const ConvForward &);
    int (*conv_backward)(const ConvBackward &);
    void (*map)(int64_t function, int64_t count, const float *x, float *y);  // for the tests of exp and friends
};

constexpr int64_t kChunk = 16;    // tokens between two kept states
constexpr int64_t kChannelPad = 16;  // kept states are padded to a multiple of this many channels

}  // namespace rmeeto
