// From a plan to the new sequence: the new number of every token, then each group of tokens made one.
#pragma once
#include "match.h"

namespace {

enum Fate : uint8_t { kStays, kLeaves, kHead };

// Room of one image of a plan.
struct Numbering {
    int32_t *place, *number, *before;  // (patches): in the sequence, among the new patches, counted rows before it
    int64_t *standing;                 // (protected): new places, in rising order of the old ones
    uint8_t *marked, *fate;
    Numbering(const TokenPlan &p, Scratch &scratch)
        : place(scratch.array<int32_t>(p.tokens)),
          number(scratch.array<int32_t>(p.tokens)),
          before(scratch.array<int32_t>(p.tokens + 1)),
          standing(scratch.array<int64_t>(p.protecteds)),
          marked(scratch.array<uint8_t>(p.tokens)),
          fate(scratch.array<uint8_t>(p.tokens)) {}
    static int64_t bytes(const TokenPlan &p) { return p.tokens * 14 + p.protecteds * 8 + 4 + 6 * 64; }
};

// What becomes of each row; false where a number is no row.
inline bool tell_fates(const TokenPlan &p, const Numbering &n, int64_t batch) {
    const int64_t patches = p.tokens - p.protecteds;
    memset(n.fate, kStays, patches);
    const int64_t *leaving = p.leaving + batch * p.removed, *joined = p.joined + batch * p.removed;
    const int64_t *heads = p.heads + batch * p.head_count;
    for (int64_t i = 0; i < p.head_count && !p.ordered; ++i) {
        if (heads[i] < 0 || heads[i] >= patches) return false;
        n.fate[heads[i]] = kHead;
        n.number[heads[i]] = int32_t(i);
    }
    for (int64_t i = 0; i < p.removed; ++i) {
        if (leaving[i] < 0 || leaving[i] >= patches || joined[i] < 0 || joined[i] >= patches) return false;
        n.fate[leaving[i]] = kLeaves;
    }
    return true;
}

// The new number of each row among the patches; who leaves has that of whom it joins.
inline void number_rows(const TokenPlan &p, const Numbering &n, int64_t batch) {
    const int64_t patches = p.tokens - p.protecteds;
    int32_t next = p.ordered ? 0 : int32_t(p.head_count), counted = 0;
    for (int64_t row = 0; row < patches; ++row) {
        n.before[row] = counted;
        if (n.fate[row] == kStays) n.number[row] = next++;
        counted += n.fate[row] == (p.ordered ? kStays : kHead);
    }
    n.before[patches] = counted;
    for (int64_t i = 0; i < p.removed; ++i)
        n.number[p.leaving[batch * p.removed + i]] = n.number[p.joined[batch * p.removed + i]];
}

inline void put_back(const TokenPlan &p, const Numbering &n, int64_t batch) {
    const int64_t length = p.ordered ? p.tokens : p.head_count + p.removed;
    int64_t *index = p.index + batch * p.tokens;
    for (int64_t place = 0, i = 0; place < p.tokens; ++place) {
        if (!n.marked[place]) continue;
        n.standing[i] = n.before[place - i] + i;
        if (p.official) n.standing[i] = place * (length - p.removed) / length;
        if (p.official && !p.ordered) n.standing[i] = smaller(n.standing[i], p.head_count);
        index[place] = n.standing[i];
        ++i;
    }
    for (int64_t row = 0; row < p.tokens - p.protecteds; ++row) {
        int64_t number = n.number[row];
        for (int64_t i = 0; i < p.protecteds; ++i) number += n.standing[i] - i <= n.number[row];
        index[n.place[row]] = number;
    }
    if (!p.kept) return;
    uint8_t *kept = p.kept + batch * p.tokens;
    memset(kept, 1, p.tokens);
    for (int64_t i = 0; i < p.removed; ++i) kept[n.place[p.leaving[batch * p.removed + i]]] = 0;
}

int token_plan(const TokenPlan *calls, int64_t) {
    const TokenPlan &p = *calls;
    Scratch scratch(Numbering::bytes(p));
    if (!scratch.block) return kMemory;
    const Numbering n(p, scratch);
    const int64_t patches = p.tokens - p.protecteds;
    for (int64_t b = 0; b < p.batch; ++b) {
        if (!list_patches(p.places + b * p.protecteds, p.rows ? p.rows + b * patches : nullptr, p.protecteds, p.tokens,
                          n.marked, n.place) ||
            !tell_fates(p, n, b))
            return kOutside;
        number_rows(p, n, b);
        put_back(p, n, b);
    }
    return 0;
}

// The share of each token in its group, and what each group weighs; false where a number is no group.
inline bool weigh(const MergeGroups &g, int64_t batch, float *share, float *total) {
    const int64_t *index = g.index + batch * g.tokens;
    memset(total, 0, g.length * sizeof *total);
    for (int64_t i = 0; i < g.tokens; ++i) {
        if (index[i] < 0 || index[i] >= g.length) return false;
        const float weight = g.size ? g.size[batch * g.tokens + i] : 1.0f;
        share[i] = g.kept ? weight * float(g.kept[batch * g.tokens + i]) : weight;
        total[index[i]] += share[i];
    }
    for (int64_t i = 0; i < g.tokens; ++i) share[i] /= total[index[i]];
    return true;
}

// Channels of one task: all, or where there are fewer images than threads, a part of them.
inline int64_t channels_at_once(const MergeGroups &g) { return g.batch >= g.threads ? g.channels : 4 * kLanes; }

inline int64_t merge_tasks(const MergeGroups &g) {
    return g.batch * ceil_div(g.channels, channels_at_once(g));
}

// Sums in the order of the tokens, as the reference has them.
inline void add_rows(const TokenMerge &m, int64_t batch, int64_t begin, int64_t end, const float *share, uint8_t *begun) {
    const MergeGroups &g = m.groups;
    memset(begun, 0, g.length);
    for (int64_t i = 0; i < g.tokens; ++i) {
        const int64_t group = g.index[batch * g.tokens + i];
        const float *x = m.x.data + batch * m.x.batch_stride + i * m.x.token_stride;
        float *y = m.y + (batch * g.length + group) * g.channels;
        for (int64_t c = begin; c < end; c += kLanes) {
            V v = load(x + c, end - c) * share[i];
            if (begun[group]) v += load(y + c, end - c);
            store(y + c, v, end - c);
        }
        begun[group] = 1;
    }
    for (int64_t group = 0; group < g.length; ++group)
        if (!begun[group]) memset(m.y + (batch * g.length + group) * g.channels + begin, 0, (end - begin) * sizeof *m.y);
}

inline void spread_rows(const TokenMergeBackward &m, int64_t batch, int64_t begin, int64_t end, const float *share) {
    const MergeGroups &g = m.groups;
    for (int64_t i = 0; i < g.tokens; ++i) {
        const float *dy = m.dy.data + batch * m.dy.batch_stride + g.index[batch * g.tokens + i] * m.dy.token_stride;
        float *dx = m.dx + (batch * g.tokens + i) * g.channels;
        for (int64_t c = begin; c < end; c += kLanes) store(dx + c, load(dy + c, end - c) * share[i], end - c);
    }
}

// Weighs all groups, then does `work(batch, first channel, last, shares, a byte per group)` for all values.
template <class Work>
int by_groups(const MergeGroups &g, float *totals, Work work) {
    const int64_t tasks = merge_tasks(g), step = channels_at_once(g), parts = ceil_div(g.channels, step);
    Scratch scratch(g.batch * (g.tokens + g.length) * 4 + tasks * g.length + 3 * 64);
    if (!scratch.block) return kMemory;
    float *share = scratch.array<float>(g.batch * g.tokens);
    if (!totals) totals = scratch.array<float>(g.batch * g.length);
    uint8_t *begun = scratch.array<uint8_t>(tasks * g.length);
    for (int64_t b = 0; b < g.batch; ++b)
        if (!weigh(g, b, share + b * g.tokens, totals + b * g.length)) return kOutside;
#pragma omp parallel for num_threads(int(g.threads)) if (g.threads > 1 && tasks > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t batch = task / parts, begin = task % parts * step;
        work(batch, begin, smaller(g.channels, begin + step), share + batch * g.tokens, begun + task * g.length);
    }
    return 0;
}

int token_merge(const TokenMerge *calls, int64_t) {
    const TokenMerge &m = *calls;
    const MergeGroups &g = m.groups;
    for (int64_t i = 0; i < g.batch * m.protecteds; ++i) {
        if (m.places[i] < 0 || m.places[i] >= g.tokens) return kOutside;
        m.moved[i] = g.index[i / m.protecteds * g.tokens + m.places[i]];
    }
    const int problem = by_groups(g, m.sizes, [&](int64_t batch, int64_t begin, int64_t end, float *share, uint8_t *begun) {
        add_rows(m, batch, begin, end, share, begun);
    });
    for (int64_t i = 0; i < g.batch * g.length && m.forget; ++i) m.sizes[i] = 1.0f;
    return problem;
}

int token_merge_backward(const TokenMergeBackward *calls, int64_t) {
    const TokenMergeBackward &m = *calls;
    return by_groups(m.groups, nullptr, [&](int64_t batch, int64_t begin, int64_t end, float *share, uint8_t *) {
        spread_rows(m, batch, begin, end, share);
    });
}

// All images of a call, one step after the other.
inline int merge_images(const BipartiteMerge &b) {
    const int64_t sources = (b.tokens - b.protecteds - b.first + 1) / 2, staying = sources - b.removed;
    Scratch scratch(b.batch * (2 * b.removed + staying + sources) * 8 + 4 * 64);
    if (!scratch.block) return kMemory;
    TokenMatch match = {};
    match.batch = b.batch;
    match.tokens = b.tokens;
    match.width = b.width;
    match.protecteds = b.protecteds;
    match.removed = b.removed;
    match.similarity = b.similarity;
    match.rank = b.rank;
    match.first = b.first;
    match.by_sequence = b.by_sequence;
    match.threads = b.threads;
    match.values = b.values;
    match.places = b.places;
    match.leaving = scratch.array<int64_t>(b.batch * b.removed);
    match.joined = scratch.array<int64_t>(b.batch * b.removed);
    match.staying = scratch.array<int64_t>(b.batch * staying);
    match.best = scratch.array<float>(b.batch * sources);
    if (const int problem = token_match(&match, 1)) return problem;
    const TokenPlan plan = {b.batch,       b.tokens,     b.protecteds,  b.removed, staying, b.ordered, b.official,
                            match.leaving, match.joined, match.staying, b.places,  nullptr, b.index,   b.kept};
    if (const int problem = token_plan(&plan, 1)) return problem;
    const MergeGroups groups = {b.batch, b.tokens, b.tokens - b.removed, b.channels, b.threads, b.index, b.size, b.kept};
    const TokenMerge merge = {groups, b.protecteds, b.forget, b.x, b.places, b.y, b.sizes, b.moved};
    return token_merge(&merge, 1);
}

inline BipartiteMerge one_image(const BipartiteMerge &b, int64_t image) {
    BipartiteMerge one = b;
    const int64_t length = b.tokens - b.removed;
    one.batch = one.threads = 1;
    one.values.data += image * b.values.batch_stride;
    one.x.data += image * b.x.batch_stride;
    one.places += image * b.protecteds;
    if (b.size) one.size += image * b.tokens;
    one.index += image * b.tokens;
    if (b.kept) one.kept += image * b.tokens;
    one.y += image * length * b.channels;
    one.sizes += image * length;
    one.moved += image * b.protecteds;
    return one;
}

// Image by image, where there are as many as threads: what is read of one is then still in the cache when it is merged.
int bipartite_merge(const BipartiteMerge *calls, int64_t) {
    const BipartiteMerge &b = *calls;
    if (b.batch < b.threads) return merge_images(b);
    int problem = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(b.threads)) if (b.threads > 1) reduction(max : problem)
    for (int64_t image = 0; image < b.batch; ++image) {
        const int found = merge_images(one_image(b, image));
        problem = problem > found ? problem : found;
    }
    return problem;
}

}  // namespace
