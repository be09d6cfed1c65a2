// Steps of a compiled model for a process that cannot load it: ./serve weights.bin BLOCKS THREADS reads batches from its input, as
// emulated.py writes them, and writes outputs.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "llmc.h"

static void check(int failed, const char* what) {
    if (!failed) return;
    fprintf(stderr, "serve: %s: %s\n", what, llmc_error());
    exit(1);
}

static int take(void* to, size_t bytes) { return fread(to, 1, bytes, stdin) == bytes; }

static void* taken(int64_t bytes) {
    void* made = aligned_alloc(64, (bytes + 64) / 64 * 64);
    check(!made || !take(made, bytes), "memory or input");
    return made;
}

static int64_t item(const char* dtype) { return !strcmp(dtype, "bool") ? 1 : !strcmp(dtype, "int64") ? 8 : 4; }

int main(int argc, char** argv) {
    const LlmcTensor *inputs, *outputs;
    const int reads = llmc_inputs(&inputs), gives = llmc_outputs(&outputs);
    void *model, *context, *results[64], *weights = NULL;
    const void* values[64];
    check(argc != 4 || reads > 64 || gives > 64, "arguments");
    FILE* file = fopen(argv[1], "rb");
    const size_t size = llmc_weight_bytes();
    weights = aligned_alloc(64, (size + 64) / 64 * 64);
    check(!file || !weights || fread(weights, 1, size, file) != size, argv[1]);
    check(llmc_model(weights, &model), "model");
    check(llmc_context(model, atoll(argv[2]), atoi(argv[3]), &context), "context");
    for (int64_t counts[5]; take(counts, sizeof counts);) {
        LlmcBatch batch = {.tokens = counts[0], .rows = counts[1], .runs = counts[2], .width = counts[3], .copies = counts[4],
                           .inputs = values, .outputs = results};
        for (int i = 0; i < reads; i++) values[i] = taken(batch.tokens * inputs[i].width * item(inputs[i].dtype));
        const int64_t sizes[] = {batch.tokens, batch.tokens, batch.runs + 1, batch.runs * batch.width, batch.rows, 2 * batch.copies};
        int32_t* arrays[6];
        for (int i = 0; i < 6; i++) arrays[i] = taken(sizes[i] * 4);
        batch.position = arrays[0], batch.run = arrays[1], batch.starts = arrays[2], batch.tables = arrays[3];
        batch.out_rows = arrays[4], batch.copy_pairs = arrays[5];
        int64_t bytes[64];
        for (int i = 0; i < gives; i++) {
            const char rows = outputs[i].rows;
            bytes[i] = (rows == 'T' ? batch.tokens : rows == 'R' ? batch.rows : batch.runs) * outputs[i].width * item(outputs[i].dtype);
            results[i] = aligned_alloc(64, (bytes[i] + 64) / 64 * 64);
        }
        check(llmc_step(context, &batch), "step");
        for (int i = 0; i < gives; i++) fwrite(results[i], 1, bytes[i], stdout), free(results[i]);
        for (int i = 0; i < reads; i++) free((void*)values[i]);
        for (int i = 0; i < 6; i++) free(arrays[i]);
        fflush(stdout);
    }
    return 0;
}
