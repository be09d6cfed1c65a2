// The C interface (llmc.h) of a generated model. Included at the end of model.cpp, which defines: ARENA (bytes a row of
// activations), FEW (rows), FEW_SHARED and FEW_OWN (bytes a row up to so many), WEIGHT_BYTES, CACHES and CACHE_FLOATS (floats a
// block of each cache), PARTIAL (floats that attention leaves of a chunk), INPUTS, OUTPUTS and their counts, BLOCK, Model, bind() and
// forward().
#include <cstdlib>
#include <memory>
#include <new>
#include <string>

namespace {

thread_local std::string problem;

// Memory for count entries of so many bytes, aligned for vectors and with one to spare.
void* allocate(int64_t count, int64_t bytes) {
    int64_t size;
    if (__builtin_mul_overflow(count, bytes, &size) || __builtin_add_overflow(size, 127, &size)) throw std::bad_alloc();
    void* memory = std::aligned_alloc(64, size_t(size) / 64 * 64);
    if (!memory) throw std::bad_alloc();
    return memory;
}

struct Context {
    const Model* model;
    int threads;
    int64_t capacity = 0;   // bytes of the arena
    char* arena = nullptr;
    float* caches[CACHES > 0 ? CACHES : 1] = {};
    float* partials = nullptr;
    int64_t chunks = 0;
    Context(const Model* model, int threads) : model(model), threads(threads) {}
    Context(const Context&) = delete;
    ~Context() {
        std::free(arena);
        std::free(partials);
        for (float* cache : caches) std::free(cache);
    }
};

template <class F>
int guarded(F body) {
    try {
        body();
        return 0;
    } catch (const std::exception& error) {
        problem = error.what();
        return 1;
    }
}

}  // namespace

extern "C" {

int llmc_abi() { return 4; }
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

const char* llmc_error() { return problem.c_str(); }

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
        if (CACHES > 0 && threads > 1) {  // most of it is never touched
            context->chunks = blocks / (CHUNK / BLOCK) + 1;
            context->partials = static_cast<float*>(allocate(context->chunks * threads, PARTIAL * int64_t(sizeof(float))));
        }
        *out = context.release();
    });
}

void llmc_free_context(void* context) { delete static_cast<Context*>(context); }

int llmc_step(void* handle, const LlmcBatch* batch) {
    Context& context = *static_cast<Context*>(handle);
    return guarded([&] {
        const int64_t rows = std::max(batch->tokens, batch->rows);
        const int64_t bytes = rows <= FEW ? FEW_SHARED + context.threads * FEW_OWN : ARENA;   // of a row
        if (rows > context.capacity / bytes) {
            std::free(context.arena);
            context.arena = nullptr;
            context.capacity = 0;
            context.arena = static_cast<char*>(allocate(rows, bytes));
            context.capacity = rows * bytes;
        }
        for (int64_t i = 0; i < batch->copies; i++)
            for (int c = 0; c < CACHES; c++)
                std::memcpy(context.caches[c] + batch->copy_pairs[2 * i + 1] * CACHE_FLOATS[c],
                            context.caches[c] + batch->copy_pairs[2 * i] * CACHE_FLOATS[c],
                            CACHE_FLOATS[c] * sizeof(float));
        const Step step{
            {batch->tokens, batch->position, batch->run, batch->tables, batch->width, batch->starts, batch->runs},
            batch->rows, batch->out_rows, batch->inputs, batch->outputs, context.caches, context.arena, rows,
            context.partials, context.chunks};
        if (context.threads == 1) {  // without OpenMP, whose threads are lost when a process forks
            forward(*context.model, step, Team{0, 1});
            return;
        }
#pragma omp parallel num_threads(context.threads)
        forward(*context.model, step, Team{omp_get_thread_num(), omp_get_num_threads()});
    });
}
}
