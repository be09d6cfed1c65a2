// A step over whole sequences, cut into parts of some sequences each that threads take in turn, each for itself: nobody waits for
// another, and what is computed stays in the cache of a core.
#pragma once
#include "attention.h"
#include "llmc.h"

namespace llmc {

// tokens: of the longest part.
class Parts {
    static constexpr int64_t MOST = 128, LEAST = 64;   // tokens of a part, but for sequences that are longer
    const LlmcBatch& batch;
    std::vector<int64_t> first{0};        // sequence of each part, and how many there are
    std::vector<int32_t> starts, run;     // as in the batch, each part's as if it were all
    std::atomic<int64_t> taken{0};

    int64_t token(int64_t part) const { return batch.starts[first[part]]; }

    static int64_t bytes(const LlmcTensor& tensor) {
        const char kind = tensor.dtype[0];   // of "float32", "int64", "bool"
        return tensor.width * (kind == 'f' ? 4 : kind == 'i' ? 8 : 1);
    }

public:
    int64_t tokens = 0;

    // Parts become smaller towards the end, so that threads end together.
    Parts(const LlmcBatch& batch, int threads) : batch(batch) {
        for (int64_t s = 0; s < batch.runs;) {
            const int64_t begin = batch.starts[s], share = (batch.tokens - begin) / (2 * threads);
            const int64_t most = threads == 1 ? MOST : std::clamp(share, LEAST, MOST);
            do s++;
            while (s < batch.runs && batch.starts[s + 1] - begin <= most);
            first.push_back(s);
            tokens = std::max(tokens, batch.starts[s] - begin);
        }
    }

    int64_t count() const { return int64_t(first.size()) - 1; }

    // Whether the threads have about as much to do as each other.
    bool fair(int threads) const {
        std::vector<int64_t> given(threads);
        for (int64_t p = 0; p < count(); p++) *std::min_element(given.begin(), given.end()) += token(p + 1) - token(p);
        return *std::max_element(given.begin(), given.end()) * threads * 4 <= batch.tokens * 5;
    }

    // Before parts are taken: what of the batch counts from its first token or sequence.
    void rebase() {
        for (int64_t p = 0; p < count(); p++) {
            for (int64_t s = first[p]; s <= first[p + 1]; s++) starts.push_back(batch.starts[s] - token(p));
            for (int64_t t = token(p); t < token(p + 1); t++) run.push_back(batch.run[t] - first[p]);
        }
    }

    // f(Step) for parts that no other thread has taken. arena: for `tokens`. inputs, outputs: what the batch has.
    template <int INPUTS, int OUTPUTS, class F>
    void take(const LlmcTensor* inputs, const LlmcTensor* outputs, char* arena, F f) {
        for (int64_t p; (p = taken.fetch_add(1)) < count();) {
            const int64_t t = token(p), s = first[p], length = token(p + 1) - t, runs = first[p + 1] - s;
            const void* read[INPUTS > 0 ? INPUTS : 1];
            void* written[OUTPUTS > 0 ? OUTPUTS : 1];
            for (int i = 0; i < INPUTS; i++) read[i] = static_cast<const char*>(batch.inputs[i]) + t * bytes(inputs[i]);
            for (int i = 0; i < OUTPUTS; i++)
                written[i] = static_cast<char*>(batch.outputs[i]) + (outputs[i].rows == 'S' ? s : t) * bytes(outputs[i]);
            const Tokens part{length, batch.position + t, run.data() + t, nullptr, 0, starts.data() + s + p, runs};
            f(Step{part, 0, nullptr, read, written, nullptr, arena, length, nullptr, 1});
        }
    }
};

}  // namespace llmc
