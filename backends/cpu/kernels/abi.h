// The C interface of a generated model. Included at the end of model.cpp, which defines: ARENA (bytes a row of activations),
// CACHES and CACHE_FLOATS (floats a block of each cache), Model, bind(), Step and forward().
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

namespace {

thread_local std::string problem;

struct Context {
    const Model* model;
    int64_t blocks;
    int threads;
    int64_t capacity = 0;
    char* arena = nullptr;
    float* caches[CACHES > 0 ? CACHES : 1] = {};
    ~Context() {
        std::free(arena);
        for (float* cache : caches) std::free(cache);
    }
};

void* allocate(int64_t bytes) {
    void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (!memory) throw std::bad_alloc();
    return memory;
}

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

// What a step is given; see llmc.runtime.contract.Batch.
struct LlmcBatch {
    int64_t tokens, rows, width, copies;
    const int64_t* const* inputs;   // one array [tokens] for each input of the program
    const int32_t *position, *table, *blocks, *out_rows, *copy_pairs;
    float* const* outputs;
};

int llmc_abi() { return 1; }
const char* llmc_error() { return problem.c_str(); }

int llmc_model(const char* weights, void** out) {
    return guarded([&] {
        Model* model = new Model;
        bind(*model, weights);
        *out = model;
    });
}

void llmc_free_model(void* model) { delete static_cast<Model*>(model); }

int llmc_context(const void* model, int64_t blocks, int threads, void** out) {
    return guarded([&] {
        Context* context = new Context{static_cast<const Model*>(model), blocks, threads};
        *out = context;
        for (int i = 0; i < CACHES; i++)
            context->caches[i] = static_cast<float*>(allocate(blocks * CACHE_FLOATS[i] * int64_t(sizeof(float))));
    });
}

void llmc_free_context(void* context) { delete static_cast<Context*>(context); }

int llmc_step(void* handle, const LlmcBatch* batch) {
    Context& context = *static_cast<Context*>(handle);
    return guarded([&] {
        const int64_t rows = batch->tokens > batch->rows ? batch->tokens : batch->rows;
        if (rows > context.capacity) {
            std::free(context.arena);
            context.arena = nullptr;
            context.capacity = 0;
            context.arena = static_cast<char*>(allocate(rows * ARENA));
            context.capacity = rows;
        }
        for (int64_t i = 0; i < batch->copies; i++)
            for (int c = 0; c < CACHES; c++)
                std::memcpy(context.caches[c] + batch->copy_pairs[2 * i + 1] * CACHE_FLOATS[c],
                            context.caches[c] + batch->copy_pairs[2 * i] * CACHE_FLOATS[c],
                            CACHE_FLOATS[c] * sizeof(float));
        const Step step{
            {batch->tokens, batch->position, batch->table, batch->blocks, batch->width},
            batch->rows, batch->out_rows, batch->inputs, batch->outputs, context.caches, context.arena, context.capacity};
#pragma omp parallel num_threads(context.threads)
        forward(*context.model, step, Team{omp_get_thread_num(), omp_get_num_threads()});
    });
}
}
