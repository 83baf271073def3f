// Who merges into whom: the similarities of two sets of tokens tile by tile, of which only each source's best is kept,
// then the numbers of the new sequence. Equal tokens are exactly equally alike: see `tile`.
#pragma once
#include "norm.h"
#include "product.h"

namespace {

constexpr int64_t kSourceBlock = 64;      // sources of one task; fixed, so that nothing depends on threads
constexpr int kMemory = 1, kOutside = 2;  // what a kernel answers where memory ran out, or a number is no place

// A destination and how like it is to a source. A NaN is more than any number, and the first of equal ones wins, as in
// torch.
struct Ranked {
    float value;
    int32_t place;
};

RMEETO_INLINE bool exceeds(float a, float b) { return a > b || (a != a && b == b); }
RMEETO_INLINE bool ahead(Ranked a, Ranked b) {
    return exceeds(a.value, b.value) || (!exceeds(b.value, a.value) && a.place < b.place);
}

// The places of the patch tokens of one image in row order; false where what is given is no place.
inline bool list_patches(const int64_t *places, const int64_t *rows, int64_t protecteds, int64_t tokens, uint8_t *marked,
                         int32_t *patches) {
    memset(marked, 0, tokens);
    for (int64_t i = 0; i < protecteds; ++i) {
        if (places[i] < 0 || places[i] >= tokens || marked[places[i]]) return false;
        marked[places[i]] = 1;
    }
    int64_t count = 0;
    for (int64_t i = 0; i < tokens && !rows; ++i)
        if (!marked[i]) patches[count++] = int32_t(i);
    for (int64_t i = 0; i < tokens - protecteds && rows; ++i) {
        if (rows[i] < 0 || rows[i] >= tokens || marked[rows[i]] & 1) return false;
        patches[i] = int32_t(rows[i]);
    }
    return true;
}

// What some images of a call are worked with.
struct Matched {
    int64_t patches, sources, destinations, padded, vectors;  // padded sources, vectors of destinations
    float *source, *panels;                                   // normalised: rows, and columns panel by panel
    float *source_length, *destination_length;                // 1, or 0 for a row of zeros
    int32_t *place, *chosen;
    uint8_t *marked;
    uint64_t *keys;

    explicit Matched(const TokenMatch &m)
        : patches(m.tokens - m.protecteds),
          sources((patches - m.first + 1) / 2),
          destinations(patches - sources),
          padded(ceil_div(sources, kTileRows) * kTileRows),
          vectors(ceil_div(destinations, kLanes)) {}

    int64_t bytes(const TokenMatch &m) const {
        const int64_t columns = vectors * kLanes;
        return m.batch * ((padded + columns) * (m.width + 1) * 4 + patches * 8 + sources * 20 + m.tokens) + 9 * 64;
    }

    void take(const TokenMatch &m, Scratch &scratch) {
        const int64_t columns = vectors * kLanes;
        source = scratch.array<float>(m.batch * padded * m.width);
        panels = scratch.array<float>(m.batch * columns * m.width);
        source_length = scratch.array<float>(m.batch * padded);
        destination_length = scratch.array<float>(m.batch * columns);
        place = scratch.array<int32_t>(m.batch * patches);
        chosen = scratch.array<int32_t>(m.batch * sources);
        marked = scratch.array<uint8_t>(m.batch * m.tokens);
        keys = scratch.array<uint64_t>(m.batch * sources * 2);
    }
};

// One over the length of a row, which counts as 1e-12 at least: zero rows stay zero.
inline float inverse_length(const float *x, int64_t width) {
    const float length = __builtin_sqrtf(sum_of_squares(x, width));
    return 1.0f / (length < 1e-12f ? 1e-12f : length);
}

inline const float *patch(const TokenMatch &m, const Matched &w, int64_t batch, int64_t row) {
    return m.values.data + batch * m.values.batch_stride + w.place[batch * w.patches + row] * m.values.token_stride;
}

inline void pack_sources(const TokenMatch &m, const Matched &w, int64_t batch, int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
        float *out = w.source + (batch * w.padded + s) * m.width;
        memset(out, 0, s < w.sources ? 0 : m.width * sizeof *out);
        VI found = {};
        if (s < w.sources) {
            const float *x = patch(m, w, batch, 2 * s + m.first), scale = inverse_length(x, m.width);
            for (int64_t c = 0; c < m.width; c += kLanes) {
                const V v = load(x + c, m.width - c) * scale;
                found |= v != V{};
                store(out + c, v, m.width - c);
            }
        }
        w.source_length[batch * w.padded + s] = any(found) ? 1.0f : 0.0f;
    }
}

// One vector of destinations, transposed into its panel.
inline void pack_destinations(const TokenMatch &m, const Matched &w, int64_t batch, int64_t vector) {
    const int64_t panel = vector / kWide * kWide, wide = smaller(kWide, w.vectors - panel);
    float *out = w.panels + (batch * w.vectors + panel) * kLanes * m.width + vector % kWide * kLanes;
    const float *x[kLanes] = {};
    float scale[kLanes];
    VI found[kLanes] = {};
    for (int64_t i = 0; i < kLanes && vector * kLanes + i < w.destinations; ++i) {
        x[i] = patch(m, w, batch, 2 * (vector * kLanes + i) + 1 - m.first);
        scale[i] = inverse_length(x[i], m.width);
    }
    for (int64_t c = 0; c < m.width; c += kLanes) {
        V v[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) {
            v[i] = x[i] ? load(x[i] + c, m.width - c) * scale[i] : V{};
            found[i] |= v[i] != V{};
        }
        transpose<1>(v);
        for (int64_t i = 0; i < smaller(kLanes, m.width - c); ++i) store(out + (c + i) * wide * kLanes, v[i]);
    }
    for (int64_t i = 0; i < kLanes; ++i)
        w.destination_length[(batch * w.vectors + vector) * kLanes + i] = any(found[i]) ? 1.0f : 0.0f;
}

enum Similarity { kCosine, kL1, kL2 };

inline VI lane_numbers() {
    int32_t lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) lanes[i] = i;
    VI numbers;
    memcpy(&numbers, lanes, sizeof numbers);
    return numbers;
}

// The best of each lane so far, for one source.
struct Running {
    V value;
    VI column;
    RMEETO_INLINE void meet(V v, int32_t first) {
        const VI better = ~(v <= value) & (value == value);
        value = better ? v : value;
        column = better ? VI{} + first : column;
    }
    inline Ranked best() const {
        float values[kLanes];
        int32_t columns[kLanes];
        memcpy(values, &value, sizeof values);
        memcpy(columns, &column, sizeof columns);
        Ranked found = {values[0], columns[0]};
        for (int32_t i = 1; i < kLanes; ++i) {
            const Ranked other = {values[i], columns[i] + i};
            if (ahead(other, found)) found = other;
        }
        return found;
    }
};

// The best `rank` destinations of one source, best first.
struct List {
    Ranked *entries;
    int64_t count = 0;
    void meet(Ranked next, int64_t rank) {
        if (count == rank && !exceeds(next.value, entries[rank - 1].value)) return;
        int64_t i = count < rank ? count++ : rank - 1;
        for (; i > 0 && exceeds(next.value, entries[i - 1].value); --i) entries[i] = entries[i - 1];
        entries[i] = next;
    }
};

// A block of sources against all destinations: `see(source, vector of the tile's columns, its number)`.
template <class See>
RMEETO_INLINE void against_all(const TokenMatch &m, const Matched &w, int64_t batch, int64_t begin, int64_t end, See see) {
    const VI lanes = lane_numbers();
    const V nothing = splat(-__builtin_inff());
    for (int64_t panel = 0; panel < w.vectors; panel += kWide) {
        const int64_t wide = smaller(kWide, w.vectors - panel);
        const float *columns = w.panels + (batch * w.vectors + panel) * kLanes * m.width;
        for (int64_t s = begin; s < end; s += kTileRows) {
            V sums[kTileRows][kWide];
            const float *source = w.source + (batch * w.padded + s) * m.width;
            if (m.similarity == kL1) tile_of<kTileRows, kWide, true>(wide, Across{source, m.width}, m.width, columns, sums);
            else tile_of<kTileRows, kWide, false>(wide, Across{source, m.width}, m.width, columns, sums);
            for (int64_t i = 0; i < kTileRows; ++i)
                for (int64_t n = 0; n < wide; ++n) {
                    const int64_t first = (panel + n) * kLanes;
                    V v = sums[i][n];
                    if (m.similarity == kL2)  // minus the squared distance of rows of length 1 or 0
                        v = 2.0f * v - w.source_length[batch * w.padded + s + i] -
                            load(w.destination_length + batch * w.vectors * kLanes + first);
                    if (first + kLanes > w.destinations) v = lanes < int32_t(w.destinations - first) ? v : nothing;
                    see(s + i - begin, v, int32_t(first));
                }
        }
    }
}

inline void keep(const TokenMatch &m, const Matched &w, int64_t batch, int64_t source, Ranked found) {
    if (source >= w.sources) return;
    m.best[batch * w.sources + source] = found.value;
    w.chosen[batch * w.sources + source] = found.place;
}

inline void choose_best(const TokenMatch &m, const Matched &w, int64_t batch, int64_t begin, int64_t end) {
    Running running[kSourceBlock];
    for (Running &r : running) r = {splat(-__builtin_inff()), VI{}};
    against_all(m, w, batch, begin, end, [&](int64_t s, V v, int32_t first) { running[s].meet(v, first); });
    for (int64_t s = begin; s < end; ++s) keep(m, w, batch, s, running[s - begin].best());
}

inline int choose_ranked(const TokenMatch &m, const Matched &w, int64_t batch, int64_t begin, int64_t end) {
    const int64_t rank = smaller(m.rank, w.destinations);
    Scratch scratch(kSourceBlock * rank * int64_t(sizeof(Ranked)));
    if (!scratch.block) return kMemory;
    List lists[kSourceBlock];
    Ranked *entries = scratch.array<Ranked>(kSourceBlock * rank);
    for (int64_t s = 0; s < kSourceBlock; ++s) lists[s].entries = entries + s * rank;
    against_all(m, w, batch, begin, end, [&](int64_t s, V v, int32_t first) {
        float values[kLanes];
        memcpy(values, &v, sizeof values);
        for (int32_t i = 0; i < smaller(kLanes, w.destinations - first); ++i) lists[s].meet({values[i], first + i}, rank);
    });
    for (int64_t s = begin; s < end; ++s) keep(m, w, batch, s, entries[(s - begin) * rank + rank - 1]);
    return 0;
}

// Rising whole numbers for falling values, NaN first, zeros alike.
inline uint32_t falling(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0;
    if (value == 0.0f) bits = 0;
    return ~(bits >> 31 ? ~bits : bits | 0x80000000u);
}

// Sorts by merging runs of doubled length; `other` is room for as many.
inline const uint64_t *sort(uint64_t *keys, uint64_t *other, int64_t count) {
    for (int64_t run = 1; run < count; run *= 2) {
        for (int64_t begin = 0; begin < count; begin += 2 * run) {
            const int64_t middle = smaller(count, begin + run), end = smaller(count, begin + 2 * run);
            int64_t a = begin, b = middle;
            for (int64_t i = begin; i < end; ++i)
                other[i] = a < middle && (b == end || keys[a] <= keys[b]) ? keys[a++] : keys[b++];
        }
        uint64_t *sorted = other;
        other = keys;
        keys = sorted;
    }
    return keys;
}

inline void rank_sources(const TokenMatch &m, const Matched &w, int64_t batch) {
    const int64_t count = w.sources;
    uint64_t *keys = w.keys + batch * count * 2;
    for (int64_t s = 0; s < count; ++s) keys[s] = uint64_t(falling(m.best[batch * count + s])) << 32 | uint64_t(s);
    const uint64_t *sorted = sort(keys, keys + count, count);
    uint8_t *gone = w.marked + batch * m.tokens;
    for (int64_t s = 0; s < count; ++s) gone[s] = 0;
    int64_t *staying = m.staying + batch * (count - m.removed);
    for (int64_t i = 0; i < count; ++i) {
        const int64_t s = int64_t(sorted[i] & 0xffffffffu);
        if (i < m.removed) {
            m.leaving[batch * m.removed + i] = 2 * s + m.first;
            m.joined[batch * m.removed + i] = 2 * int64_t(w.chosen[batch * count + s]) + 1 - m.first;
            gone[s] = 1;
        } else if (!m.by_sequence) {
            *staying++ = 2 * s + m.first;
        }
    }
    for (int64_t s = 0; s < count && m.by_sequence; ++s)
        if (!gone[s]) *staying++ = 2 * s + m.first;
}

inline int match_images(const TokenMatch &m, const Matched &w) {
    int problem = 0;
    [[maybe_unused]] const int threads = int(m.threads);  // without OpenMP
#pragma omp parallel for num_threads(threads) if (threads > 1 && m.batch > 1) reduction(max : problem)
    for (int64_t b = 0; b < m.batch; ++b)
        if (!list_patches(m.places + b * m.protecteds, m.rows ? m.rows + b * w.patches : nullptr, m.protecteds, m.tokens,
                          w.marked + b * m.tokens, w.place + b * w.patches))
            problem = kOutside;
    if (problem) return problem;
    const int64_t blocks = ceil_div(w.padded, kSourceBlock), packs = blocks + w.vectors;
#pragma omp parallel for num_threads(threads) if (threads > 1 && m.batch * packs > 1)
    for (int64_t task = 0; task < m.batch * packs; ++task) {
        const int64_t batch = task / packs, part = task % packs;
        if (part < w.vectors) pack_destinations(m, w, batch, part);
        else
            pack_sources(m, w, batch, (part - w.vectors) * kSourceBlock,
                         smaller(w.padded, (part - w.vectors + 1) * kSourceBlock));
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1 && m.batch * blocks > 1) \
    reduction(max : problem)
    for (int64_t task = 0; task < m.batch * blocks; ++task) {
        const int64_t batch = task / blocks, begin = task % blocks * kSourceBlock;
        const int64_t end = smaller(w.padded, begin + kSourceBlock);
        if (m.rank == 1 || w.destinations == 1) choose_best(m, w, batch, begin, end);
        else if (choose_ranked(m, w, batch, begin, end)) problem = kMemory;
    }
    if (problem) return problem;
#pragma omp parallel for num_threads(threads) if (threads > 1 && m.batch > 1)
    for (int64_t b = 0; b < m.batch; ++b) rank_sources(m, w, b);
    return 0;
}

// A few images at a time: what is packed of them is still in the cache when it is compared.
int token_match(const TokenMatch *calls, int64_t) {
    TokenMatch m = *calls;
    const int64_t at_once = smaller(m.batch, m.threads > 1 ? 2 * m.threads : 1);
    m.batch = at_once;
    Matched w(m);
    Scratch scratch(w.bytes(m));
    if (!scratch.block) return kMemory;
    w.take(m, scratch);
    for (int64_t begin = 0; begin < calls->batch; begin += at_once) {
        m.batch = smaller(at_once, calls->batch - begin);
        m.values.data = calls->values.data + begin * m.values.batch_stride;
        m.places = calls->places + begin * m.protecteds;
        m.rows = calls->rows ? calls->rows + begin * w.patches : nullptr;
        m.leaving = calls->leaving + begin * m.removed;
        m.joined = calls->joined + begin * m.removed;
        m.staying = calls->staying + begin * (w.sources - m.removed);
        m.best = calls->best + begin * w.sources;
        if (const int problem = match_images(m, w)) return problem;
    }
    return 0;
}

}  // namespace
