// Continues token ids by the most likely ones, with nothing but the library and the packed weights of this folder:
//     cc -O2 main.c ./model.so -o main && ./main 32 15 7 192        (32 more after the ids 15 7 192)
// What the ids mean is in tokenizer/tokenizer.json.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "llmc.h"

static void fail(const char* what, const char* why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void check(int status) {
    if (status) fail("model.so", llmc_error());
}

static void* memory(size_t bytes) {
    void* made = calloc(bytes ? bytes : 1, 1);
    if (!made) fail("main", "no memory");
    return made;
}

static const void* map_weights(const char* path, int64_t bytes) {
    struct stat status;
    const int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &status)) fail(path, "cannot be opened");
    if (status.st_size != bytes) fail(path, "is not the file that model.so was made for");
    const void* weights = bytes ? mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, file, 0) : "";
    if (weights == MAP_FAILED) fail(path, "cannot be mapped");
    close(file);
    return weights;
}

int main(int argc, char** argv) {
    const LlmcTensor *inputs, *outputs;
    const int reads = llmc_inputs(&inputs), gives = llmc_outputs(&outputs), block = llmc_block();
    if (argc < 3) fail("usage", "./main COUNT ID...");
    const int64_t given = argc - 2, total = given + atoll(argv[1]), blocks = (total + block - 1) / block;
    if (total < given || total > 1 << 24) fail("COUNT", "cannot be");
    int64_t *ids = memory(total * sizeof *ids), *place = memory(total * sizeof *place);
    int32_t *position = memory(total * sizeof *position), *run = memory(total * sizeof *run);
    int32_t* table = memory(blocks * sizeof *table);
    for (int64_t i = 0; i < given; i++) ids[i] = atoll(argv[i + 2]);
    for (int64_t i = 0; i < total; i++) place[i] = position[i] = i;
    for (int64_t i = 0; i < blocks; i++) table[i] = i;

    void *model, *context, **results = memory(gives * sizeof *results);
    const void** values = memory(reads * sizeof *values);
    int64_t limit = INT64_MAX;
    int64_t logits = -1;
    for (int o = 0; o < gives; o++) {   // of one row, or of all tokens that are read
        results[o] = memory((outputs[o].rows == 'T' ? total : 1) * outputs[o].width * sizeof(int64_t));
        if (!strcmp(outputs[o].name, "logits")) logits = o;
    }
    if (logits < 0) fail("model.so", "gives no logits");
    for (int i = 0; i < reads; i++) {
        const int64_t below = inputs[i].limit >= 0 ? inputs[i].limit : INT64_MAX;
        if (!strcmp(inputs[i].name, "input_ids")) limit = below;
        else if (total - 1 > below) fail("COUNT", "goes beyond the positions of the model");   // the last one is not read
    }
    for (int64_t i = 0; i < given; i++)
        if (ids[i] < 0 || ids[i] >= limit) fail("ID", "is not of the vocabulary");

    check(llmc_model(map_weights("weights.bin", llmc_weight_bytes()), &model));
    check(llmc_context(model, blocks, 1, &context));
    for (int64_t done = 0, next = given; next < total; done = next++) {   // at first the ids given, then each that was chosen
        for (int i = 0; i < reads; i++) values[i] = strcmp(inputs[i].name, "position") ? ids + done : place + done;
        const int32_t count = (int32_t)(next - done), starts[] = {0, count}, last = count - 1;
        int64_t best;
        const LlmcBatch batch = {.tokens = count, .rows = 1, .runs = 1, .width = blocks, .inputs = values, .outputs = results,
                                 .position = position + done, .run = run, .starts = starts, .tables = table, .out_rows = &last,
                                 .largest = &best, .ranked = logits};
        check(llmc_step(context, &batch));
        if (best < 0) fail("model.so", "gave logits that are not finite");
        printf("%lld\n", (long long)(ids[next] = best));
    }
    llmc_free_context(context);
    llmc_free_model(model);
    return 0;
}
