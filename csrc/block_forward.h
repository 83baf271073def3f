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
        for (int64_t image = t.first; shared.b.merged && image < t.end; ++image)
            if (const int found = shared.merge(t, image)) __atomic_store_n(&problem, found, __ATOMIC_RELAXED);
    }
};

// All threads of `all`: weights laid out at `next`, and behind them the memory that each thread has; what a kernel answers.
template <class Work>
int run_all(Work &all, char *next, int64_t weights, int64_t own, int64_t threads) {
    for (char *&each : all.weights) {
        each = next;
        next += weights;
    }
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    all.run(next + thread_number() * own);
    return all.problem;
}

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
    return run_all(all, next + state, shared, own, threads);
}

// Blocks of few images, one after the other: all threads together, one set of images after the other. Who has nothing to
// merge behind a block lays out the next one's weights.
struct Together {
    const BlockForward *calls;
    int64_t count;
    char *weights[kLaidOut], *images;
    int problem = 0;

    // What one thread does, and every other with it; it has memory for itself.
    void run(void *memory) {
        for (int64_t i = 0; i < count; ++i) {
            const BlockForward &b = calls[i];
            const Sets sets(b, 1);
            Scratch own(memory), common(weights[i % kLaidOut]), rows(images);
            const BlockThread thread(b, own);
            const BlockImages all(b, sets.largest(), rows);
            const BlockShared shared(b, lays_out(b), common);
            lay_out(shared);
            for (int64_t set = 0; set < sets.count; ++set) {
                const BlockImages t = all.with(sets.begin(set), sets.begin(set + 1));
                const bool last = set + 1 == sets.count;
                pass(shared, t, thread);
                if (b.merged || !last) {
#pragma omp barrier
                }
                if (b.merged) merge(shared, t);
                if (b.merged && !last) {
#pragma omp barrier
                }
            }
        }
    }

    // All weights but those that a product lays out as it goes; nobody goes on before they and what was merged are there.
    void lay_out(const BlockShared &shared) const {
        const int64_t pieces = shared.pieces();
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t piece = 0; piece < pieces; ++piece) shared.prepare(piece);
#pragma omp for schedule(dynamic, 4)
        for (int64_t piece = 0; piece < shared.parameters.pieces; ++piece) shared.prepare_scan(piece);
    }

    // Some images through a block, but for the merge. Nobody waits at the end.
    void pass(const BlockShared &shared, const BlockImages &t, const BlockThread &own) const {
        const Cut cut(shared.b, (t.end - t.first) * shared.b.tokens, shared.b.threads);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < cut.row_tasks; ++task) shared.norm(t, cut.begin(task), cut.end(task));
#pragma omp for schedule(static)  // a thread's panels lie one after the other: the next one is asked for ahead
        for (int64_t task = 0; task < cut.tasks(shared.in); ++task) shared.project_in(t, cut, task, own.panel);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < cut.row_tasks; ++task) shared.convolve(t, cut.begin(task), cut.end(task));
#pragma omp for schedule(dynamic, 1)
        for (int64_t group = 0; group < shared.parameters.groups; ++group) shared.scan_group(t, group, own.h);
#pragma omp for schedule(static) nowait
        for (int64_t task = 0; task < cut.tasks(shared.out); ++task) shared.project_out(t, cut, task, own.panel);
    }

    // Merge the tokens of each image. Nobody waits at the end.
    void merge(const BlockShared &shared, const BlockImages &t) {
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t image = t.first; image < t.end; ++image)
            if (const int found = shared.merge(t, image)) __atomic_store_n(&problem, found, __ATOMIC_RELAXED);
    }
};

int together(const BlockForward *calls, int64_t count) {
    const int64_t threads = calls->threads;
    int64_t shared = 0, images = 0, own = 0;  // bytes
    for (int64_t i = 0; i < count; ++i) {
        const BlockForward &b = calls[i];
        shared = larger(shared, bytes_of<BlockShared>(b, lays_out(b)));
        images = larger(images, bytes_of<BlockImages>(b, Sets(b, 1).largest()));
        own = larger(own, bytes_of<BlockThread>(b));
    }
    char *next = static_cast<char *>(kept_scratch(kLaidOut * shared + images + threads * own));
    if (!next) return 1;
    Together all = {calls, count, {}, next};
    return run_all(all, next + images, shared, own, threads);
}

int block_forward(const BlockForward *calls, int64_t count) {
    for (int64_t begin = 0, end = 0; begin < count; begin = end) {
        const bool flowing = flows(calls[begin]);
        while (end < count && flows(calls[end]) == flowing) ++end;
        if (const int problem = (flowing ? flow : together)(calls + begin, end - begin)) return problem;
    }
    return 0;
}

}  // namespace
