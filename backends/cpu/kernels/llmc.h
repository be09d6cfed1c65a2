// The C interface of a compiled model. All functions that return int, but those that count or tell a number, return 0 for success.
#ifndef LLMC_H
#define LLMC_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

// An input or output: name; dtype ("float32", "int64", "bool"); rows: one entry for each token ('T'), for each row that is asked
// for ('R'), or for each run ('S'); width: elements of an entry; limit: whole numbers of an input must be below, or -1.
typedef struct {
    const char *name, *dtype;
    char rows;
    int64_t width, limit;
} LlmcTensor;

// A step: tokens in runs, each the next tokens of one sequence, or all of it if there is no cache.
typedef struct {
    int64_t tokens, rows, runs, width, copies;
    const void* const* inputs;   // for each input an array [tokens, ...]
    const int32_t *position;     // [tokens]: of each token in its sequence
    const int32_t *run;          // [tokens]: which row of tables is its sequence's
    const int32_t *starts;       // [runs + 1]: the first token of each run, and the number of tokens
    const int32_t *tables;       // [runs][width]: the cache blocks of each sequence
    const int32_t *out_rows;     // [rows]: the tokens whose rows are asked for
    const int32_t *copy_pairs;   // [copies][2]: blocks to copy (from, to) before the step
    void* const* outputs;        // for each output an array [tokens, ...], [rows, ...] or [runs, ...]
    int64_t* largest;            // null; or, instead of the entries of the output `ranked`, where the largest number of each is:
                                 // the first of equal ones, or -1 if it is not finite or some number is none
    int64_t ranked;              // an output in float32
} LlmcBatch;

int llmc_abi(void);                                // the version of this interface
int llmc_block(void);                              // positions in a block of the cache
int64_t llmc_weight_bytes(void);                   // size of the packed weights
int llmc_inputs(const LlmcTensor** tensors);       // how many there are
int llmc_outputs(const LlmcTensor** tensors);      // how many there are
const char* llmc_error(void);                      // of the last failure in this thread

// weights: aligned to 64 bytes; they must stay for as long as the model does. A context is a cache of so many blocks, for one step
// at a time; several contexts of a model may be used by several threads at once.
int llmc_model(const void* weights, void** model);
int llmc_context(const void* model, int64_t blocks, int threads, void** context);
int llmc_step(void* context, const LlmcBatch* batch);
void llmc_free_context(void* context);
void llmc_free_model(void* model);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
