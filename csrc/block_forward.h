// Whole blocks in one go, one after the other. Where every thread has images for itself, blocks flow into one another: who
// finds no more images of a block goes on to the next one, and nobody waits but for what he reads. Cores are seldom
// equally fast, and at a barrier behind every block the faster one would wait for the slower.
#pragma once
#include "block.h"

namespace {

constexpr int64_t kOwnImage = 16 << 20;  // bytes of one image up to which every thread has one for itself
constexpr int64_t kLaidOut = 2;          // blocks whose weights lie laid out at the same time
constexpr int64_t kPiecesAtOnce = 8;     // of weights, that one thread lays out
constexpr int64_t kPatience = 1 << 12;   // rounds of waiting before a thread gives way

inline void wait_for(const int64_t *number, int64_t least) {
    for (int64_t round = 0; __atomic_load_n(number, __ATOMIC_ACQUIRE) < least; ++round)
        if (round < kPatience) pause();
        else give_way();
}

// Whether every thread works on images of its own.
inline bool flows(const BlockForward &b) {
    return lays_out(b) && b.batch >= b.threads && (b.threads == 1 || bytes_of<BlockImages>(b, 1) <= kOwnImage);
}

// Blocks that flow into one another. A set of images waits until the block before has passed all images up to its own
// last one: what they read may lie where this set's results will, and what later images read cannot, for it lies behind
// them as long as tokens do not grow in number.
struct Flow {
    struct alignas(64) Counters {    // of one block
        int64_t pieces, laid, sets;  // pieces handed out, pieces laid out, sets handed out
    };

    const BlockForward *calls;
    int64_t count;
    Counters *counters;
    int64_t *passed;  // blocks, by each image
    char *weights[kLaidOut];
    int problem = 0;

    void wait_for_images(int64_t images, int64_t blocks) const {
        for (int64_t image = 0; image < images; ++image) wait_for(passed + image, blocks);
    }

    // What one thread does; it has memory for its images and itself.
    void run(void *memory) {
        for (int64_t i = 0; i < count; ++i) {
            const BlockForward &b = calls[i];
            const Sets sets(b, b.threads);
            Scratch own(memory), common(weights[i % kLaidOut]);
            const BlockThread thread(b, own);
            const BlockImages images(b, sets.largest(), own);
            const BlockShared shared(b, true, common);
            const int64_t pieces = lay_out(i, shared);
            for (int64_t set; (set = __atomic_fetch_add(&counters[i].sets, 1, __ATOMIC_RELAXED)) < sets.count;) {
                wait_for(&counters[i].laid, pieces);
                wait_for_images(sets.begin(set + 1), i);
                pass(shared, images.with(sets.begin(set), sets.begin(set + 1)), thread);
                for (int64_t image = sets.begin(set); image < sets.begin(set + 1); ++image)
                    __atomic_store_n(passed + image, i + 1, __ATOMIC_RELEASE);
            }
        }
    }

    // Lay out pieces of a block's weights, as long as there are any, when nobody reads any more what lies there; how many
    // there are in all.
    int64_t lay_out(int64_t i, const BlockShared &shared) const {
        const int64_t panels = shared.pieces(), pieces = panels + shared.parameters.pieces;
        for (int64_t piece; (piece = __atomic_fetch_add(&counters[i].pieces, kPiecesAtOnce, __ATOMIC_RELAXED)) < pieces;) {
            const int64_t end = smaller(pieces, piece + kPiecesAtOnce), done = end - piece;
            wait_for_images(shared.b.batch, i - kLaidOut + 1);
            for (; piece < end; ++piece)
                if (piece < panels) shared.prepare(piece);
                else shared.prepare_scan(piece - panels);
            __atomic_fetch_add(&counters[i].laid, done, __ATOMIC_RELEASE);
        }
        return pieces;
    }

    // Some images through a block.
    void pass(const BlockShared &shared, const BlockImages &t, const BlockThread &own) {
        const Cut cut(shared.b, (t.end - t.first) * shared.b.tokens, 1);
        shared.norm(t, 0, cut.total);
        for (int64_t task = 0; task < cut.row_tasks; ++task) shared.project_in(t, cut, task, own.panel);
        for (int64_t task = 0; task < cut.row_tasks; ++task) shared.convolve(t, cut.begin(task), cut.end(task));
        for (int64_t group = 0; group < shared.parameters.groups; ++group) shared.scan_group(t, group, own.h);
        for (int64_t task = 0; task < cut.row_tasks; ++task) shared.project_out(t, cut, task, own.panel);
        if (const int found = shared.merge(t)) __atomic_store_n(&problem, found, __ATOMIC_RELAXED);
    }
};

int flow(const BlockForward *calls, int64_t count) {
    const int64_t threads = calls->threads, batch = calls->batch;
    int64_t shared = 0, own = 0;  // bytes
    for (int64_t i = 0; i < count; ++i) {
        const BlockForward &b = calls[i];
        shared = larger(shared, bytes_of<BlockShared>(b, true));
        own = larger(own, bytes_of<BlockImages>(b, Sets(b, threads).largest()) + bytes_of<BlockThread>(b));
    }
    const int64_t state = count * int64_t(sizeof(Flow::Counters)) + batch * int64_t(sizeof(int64_t)) + 2 * 64;
    char *next = static_cast<char *>(kept_scratch(state + kLaidOut * shared + threads * own));
    if (!next) return 1;
    memset(next, 0, state);
    Scratch memory(next);
    Flow all = {calls, count, memory.array<Flow::Counters>(count), memory.array<int64_t>(batch), {}};
    next += state;
    for (char *&each : all.weights) {
        each = next;
        next += shared;
    }
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    all.run(next + thread_number() * own);
    return all.problem;
}

// One set of images after the other, all threads together.
struct Together {
    const BlockShared &shared;
    int &problem;

    // Lay out all weights but those that a product lays out as it goes.
    void prepare() const {
        const int64_t pieces = shared.pieces();
#pragma omp for schedule(static, 1) nowait  // a direction's pieces are alike, and their number is small
        for (int64_t piece = 0; piece < pieces; ++piece) shared.prepare(piece);
#pragma omp for schedule(static)
        for (int64_t piece = 0; piece < shared.parameters.pieces; ++piece) shared.prepare_scan(piece);
    }

    void pass(const BlockImages &t, const BlockThread &own) const {
        const Cut cut(shared.b, (t.end - t.first) * shared.b.tokens, shared.b.threads);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < cut.row_tasks; ++task) shared.norm(t, cut.begin(task), cut.end(task));
#pragma omp for schedule(static)  // a thread's panels lie one after the other: the next one is asked for ahead
        for (int64_t task = 0; task < cut.tasks(shared.in); ++task) shared.project_in(t, cut, task, own.panel);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < cut.row_tasks; ++task) shared.convolve(t, cut.begin(task), cut.end(task));
#pragma omp for schedule(dynamic, 1)
        for (int64_t group = 0; group < shared.parameters.groups; ++group) shared.scan_group(t, group, own.h);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < cut.tasks(shared.out); ++task) shared.project_out(t, cut, task, own.panel);
#pragma omp single
        if (const int found = shared.merge(t)) problem = found;
    }
};

int together(const BlockForward &b) {
    const bool laid_out = lays_out(b);
    const Sets sets(b, 1);
    const int64_t common = bytes_of<BlockShared>(b, laid_out), images = bytes_of<BlockImages>(b, sets.largest());
    const int64_t own = bytes_of<BlockThread>(b);
    char *const kept = static_cast<char *>(kept_scratch(common + images + b.threads * own));
    if (!kept) return 1;
    Scratch common_memory(kept), image_memory(kept + common);
    const BlockShared shared(b, laid_out, common_memory);
    const BlockImages all(b, sets.largest(), image_memory);
    int problem = 0;
    const Together work = {shared, problem};
#pragma omp parallel num_threads(int(b.threads)) if (b.threads > 1)
    {
        Scratch memory(kept + common + images + thread_number() * own);
        const BlockThread thread(b, memory);
        work.prepare();
        for (int64_t set = 0; set < sets.count; ++set)
            work.pass(all.with(sets.begin(set), sets.begin(set + 1)), thread);
    }
    return problem;
}

int block_forward(const BlockForward *calls, int64_t count) {
    for (int64_t begin = 0, end = 0; begin < count; begin = end) {
        while (end < count && flows(calls[end])) ++end;
        const int problem = end > begin ? flow(calls + begin, end - begin) : together(calls[end++]);
        if (problem) return problem;
    }
    return 0;
}

}  // namespace
