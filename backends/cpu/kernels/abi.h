// The C interface (llmc.h) of a generated model. Included at the end of model.cpp, which defines: ARENA (bytes a row of
// activations), FEW (rows), FEW_SHARED and FEW_OWN (bytes a row up to so many), WEIGHT_BYTES, CACHES and CACHE_FLOATS (floats a
// block of each cache), PARTIAL (floats that attention leaves of a chunk), PARTED (whether a step may be cut between sequences),
// INPUTS, OUTPUTS and their counts, BLOCK, Model, bind() and forward().
#include "largest.h"
#include "parts.h"

namespace {

thread_local char problem[512];

// Memory for count entries of so many bytes, aligned for vectors and with one to spare.
void* allocate(int64_t count, int64_t bytes, int64_t alignment = 64) {
    int64_t size;
    if (__builtin_mul_overflow(count, bytes, &size) || __builtin_add_overflow(size, alignment + 63, &size)) throw std::bad_alloc();
    void* memory = std::aligned_alloc(size_t(alignment), size_t(size / alignment * alignment));
    if (!memory) throw std::bad_alloc();
    return memory;
}

// The same of rows that a step fills, much of it in large pages where the system has them: with small ones an address is looked up
// for each row. What fills no page stays in small ones, and so does the cache, of which a step may touch little.
void* allocate_rows(int64_t count, int64_t bytes) {
    constexpr int64_t page = 2 << 20;
    int64_t size;
    if (__builtin_mul_overflow(count, bytes, &size) || size < page) return allocate(count, bytes);
    void* memory = allocate(count, bytes, page);
#if defined(MADV_HUGEPAGE)
    madvise(memory, size / page * page, MADV_HUGEPAGE);   // a wish
#endif
    return memory;
}

struct Context {
    const Model* model;
    int threads;
    int64_t capacity = 0, ranked = 0, shared = 0;   // bytes of the arena, of entries that are not given out, and of partials
    char *arena = nullptr, *entries = nullptr, *partials = nullptr;
    float* caches[CACHES > 0 ? CACHES : 1] = {};
    Context(const Model* model, int threads) : model(model), threads(threads) {}
    Context(const Context&) = delete;
    ~Context() {
        std::free(arena);
        std::free(partials);
        std::free(entries);
        for (float* cache : caches) std::free(cache);
    }
};

// Memory of so many rows, kept from step to step unless it has to grow.
char* room(char*& memory, int64_t& capacity, int64_t rows, int64_t bytes) {
    if (rows > capacity / bytes) {
        std::free(memory);
        memory = nullptr;
        capacity = 0;
        memory = static_cast<char*>(allocate_rows(rows, bytes));
        capacity = rows * bytes;
    }
    return memory;
}

// Where the largest number of each entry is, in the end: at first of each thread's share, `found` being [entries][team.size].
void rank(const float* entries, int64_t count, int64_t width, Largest* found, Team team) {
    for (int64_t i = 0; i < count; i++)
        found[i * team.size + team.id] = largest_of(entries + i * width, team.start(width), team.stop(width));
}

// f(team) on each of so many threads.
template <class F>
void on_threads(int threads, F f) {
    if (threads == 1) return f(Team{0, 1});   // without OpenMP, whose threads are lost when a process forks
#pragma omp parallel num_threads(threads)
    f(Team{omp_get_thread_num(), omp_get_num_threads()});
}

// The step by parts, if it has parts that are about a thread's share; whether it was done.
bool step_parted(Context& context, const LlmcBatch& batch) {
    if (!PARTED || batch.largest) return false;
    Parts parts(batch, context.threads);
    if (!parts.fair(context.threads)) return false;
    parts.rebase();
    const int64_t bytes = std::max(ARENA, FEW_SHARED + FEW_OWN), each = parts.tokens * bytes;   // for a thread
    char* arena = room(context.arena, context.capacity, parts.tokens * context.threads, bytes);
    on_threads(context.threads, [&](Team team) {
        parts.take<INPUTS_COUNT, OUTPUTS_COUNT>(INPUTS, OUTPUTS, arena + team.id * each,
                                                [&](const Step& step) { forward(*context.model, step, Team{0, 1}); });
    });
    return true;
}

template <class F>
int guarded(F body) {
    try {
        body();
        return 0;
    } catch (const std::exception& error) {
        problem[0] = 0;
        std::strncat(problem, error.what(), sizeof problem - 1);
        return 1;
    }
}

}  // namespace

extern "C" {

int llmc_abi() { return 5; }
int llmc_block() { return BLOCK; }
int64_t llmc_weight_bytes() { return WEIGHT_BYTES; }

int llmc_inputs(const LlmcTensor** tensors) {
    *tensors = INPUTS;
    return INPUTS_COUNT;
}

int llmc_outputs(const LlmcTensor** tensors) {
    *tensors = OUTPUTS;
    return OUTPUTS_COUNT;
}

const char* llmc_error() { return problem; }

int llmc_model(const void* weights, void** out) {
    return guarded([&] {
        auto model = std::make_unique<Model>();
        bind(*model, static_cast<const char*>(weights));
        *out = model.release();
    });
}

void llmc_free_model(void* model) { delete static_cast<Model*>(model); }

int llmc_context(const void* model, int64_t blocks, int threads, void** out) {
    return guarded([&] {
        auto context = std::make_unique<Context>(static_cast<const Model*>(model), threads);
        for (int i = 0; i < CACHES; i++)
            context->caches[i] = static_cast<float*>(allocate(blocks, CACHE_FLOATS[i] * int64_t(sizeof(float))));
        *out = context.release();
    });
}

void llmc_free_context(void* context) { delete static_cast<Context*>(context); }

int llmc_step(void* handle, const LlmcBatch* batch) {
    Context& context = *static_cast<Context*>(handle);
    return guarded([&] {
        if (step_parted(context, *batch)) return;
        const int64_t rows = std::max(batch->tokens, batch->rows);
        const int64_t bytes = rows <= FEW ? FEW_SHARED + context.threads * FEW_OWN : ARENA;   // of a row
        room(context.arena, context.capacity, rows, bytes);
        void* outputs[OUTPUTS_COUNT > 0 ? OUTPUTS_COUNT : 1];
        std::copy(batch->outputs, batch->outputs + OUTPUTS_COUNT, outputs);
        int64_t count = 0, width = 0;   // of the entries whose largest numbers are asked for
        Largest* found = nullptr;
        if (batch->largest) {
            const LlmcTensor& ranked = OUTPUTS[batch->ranked];
            count = ranked.rows == 'T' ? batch->tokens : ranked.rows == 'R' ? batch->rows : batch->runs, width = ranked.width;
            const int64_t each = (width * sizeof(float) + 63) / 64 * 64, all = each + context.threads * sizeof(Largest);
            char* memory = room(context.entries, context.ranked, std::max<int64_t>(count, 1), all);
            outputs[batch->ranked] = memory;
            found = reinterpret_cast<Largest*>(memory + count * each);
        }
        int64_t chunks = 1;   // of the longest table, doubled until it fits: memory grows seldom
        while (chunks * (CHUNK / BLOCK) < batch->width) chunks *= 2;
        if (CACHES > 0 && context.threads > 1)
            room(context.partials, context.shared, chunks * context.threads, PARTIAL * int64_t(sizeof(float)));
        for (int64_t i = 0; i < batch->copies; i++)
            for (int c = 0; c < CACHES; c++)
                std::memcpy(context.caches[c] + batch->copy_pairs[2 * i + 1] * CACHE_FLOATS[c],
                            context.caches[c] + batch->copy_pairs[2 * i] * CACHE_FLOATS[c],
                            CACHE_FLOATS[c] * sizeof(float));
        const Step step{
            {batch->tokens, batch->position, batch->run, batch->tables, batch->width, batch->starts, batch->runs},
            batch->rows, batch->out_rows, batch->inputs, outputs, context.caches, context.arena, rows,
            reinterpret_cast<float*>(context.partials), chunks};
        int size = 1;
        on_threads(context.threads, [&](Team team) {
            if (team.id == 0) size = team.size;
            forward(*context.model, step, team);
            if (!found) return;
            step.barrier(team);
            rank(static_cast<const float*>(outputs[batch->ranked]), count, width, found, team);
        });
        for (int64_t i = 0; found && i < count; i++) batch->largest[i] = combined(found + i * size, size).place();
    });
}
}
