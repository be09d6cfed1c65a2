// The tiles of a step, shared out by what they cost: where a thread's share ends within a tile, it is cut between two chunks.
#pragma once
#include "tile.h"

namespace llmc {

// A tile of the step. first, last: blocks of positions that it reads; start: what the tiles before it cost.
struct Piece {
    int64_t token, start;
    int count, group, head, heads;
    int32_t end, first, last;

    int32_t first_chunk() const { return first / (CHUNK / BLOCK); }
    int32_t last_chunk() const { return last / (CHUNK / BLOCK); }
    // What is done before a block: to read one costs as much as to multiply it with half a tile of rows.
    int64_t before(int32_t block) const {
        return start + int64_t(std::max(block, first) - first) * (TILE_ROWS / 2 + count * heads);
    }
};

// Tokens of a tile: so many that their heads fill whole groups of rows that are multiplied at once, or nearly do.
constexpr int tile_tokens(int heads) {
    int best = 1;
    const auto filled = [=](int tokens) { return double(tokens * heads) / ((tokens * heads + AT_ONCE - 1) / AT_ONCE); };
    for (int tokens = 1; tokens * heads <= TILE_ROWS; tokens++)
        if (filled(tokens) >= filled(best)) best = tokens;
    return best;
}

// Every thread works out the same shares. CUT: whether tiles may be cut.
template <int H, int G, bool CUT, class F, class Blocks>
class Shares {
    static constexpr int SHARE = H / G, MOST = SHARE < TILE_HEADS ? SHARE : TILE_HEADS;
    const Blocks& blocks;
    const Tokens& tokens;
    const F f;
    const int size;
    int64_t total = 0;

public:
    Shares(const Blocks& blocks, const Tokens& tokens, F f, int size) : blocks(blocks), tokens(tokens), f(f), size(size) {
        visit([&](const Piece& piece) { total = piece.before(piece.last + 1); });
    }

    // All pieces, in order: those that read the same keys after each other, as these stay in the cache of a core.
    template <class Visit>
    void visit(Visit see) const {
        int64_t start = 0;
        for (int64_t run = 0; run < tokens.runs; run++)
            for (int g = 0; g < G; g++)
                for (int h = 0; h < SHARE; h += MOST)
                    for (int64_t t = tokens.starts[run], next; t < tokens.starts[run + 1]; t = next) {
                        next = std::min<int64_t>(t + tile_tokens(MOST), tokens.starts[run + 1]);
                        const int32_t end = blocks.end(t), first = f.first(tokens.position[t]) / BLOCK;
                        const int32_t last = int32_t(f.last(tokens.position[next - 1], end) / BLOCK);
                        const Piece piece{t, start, int(next - t), g, g * SHARE + h, std::min(SHARE - h, MOST), end, first, last};
                        see(piece);
                        start = piece.before(last + 1);
                    }
    }

    // Whose a chunk of a piece is.
    int owner(const Piece& piece, int32_t chunk) const {
        const int64_t at = CUT ? piece.before(chunk * (CHUNK / BLOCK)) : piece.start;
        return int(((at + 1) * size - 1) / total);
    }
};

// Attention of all tokens of a step. Blocks says where a sequence ends (end) and where its blocks lie (of).
template <int H, int G, int D, int DV, bool CUT, class F, class Blocks>
inline void attend(const float* q, int64_t stride, const Blocks& blocks, const float* sinks, float scale, float* y,
                   const Step& step, Team team, F f) {
    const Tokens& tokens = step.tokens;
    const Shares<H, G, CUT, F, Blocks> shares(blocks, tokens, f, team.size);
    std::optional<Tile<D, DV, F>> tile;
    std::optional<Piece> begun;  // by this thread, which others go on with
    bool cut = false;
    const auto partial = [&](int id, int32_t chunk) { return step.partials + (id * step.chunks + chunk) * partial_floats(DV); };
    shares.visit([&](const Piece& piece) {
        const int32_t first = piece.first_chunk(), last = piece.last_chunk();
        const int from = shares.owner(piece, first), to = shares.owner(piece, last);
        cut |= from < to;
        if (team.id < from || team.id > to) return;
        tile.emplace(q + piece.token * stride, stride, sinks, scale, piece.head, piece.heads, piece.count,
                     tokens.position[piece.token], piece.end, f);
        const auto where = blocks.of(piece.token, piece.group);
        for (int32_t c = first; c <= last; c++) {
            if (from < to && shares.owner(piece, c) != team.id) continue;
            if (from == team.id) tile->add(c, where);
            else tile->weigh(c, where, partial(team.id, c));
        }
        if (from == to) tile->put(y + piece.token * H * DV, H * DV);
        else if (from == team.id) begun = piece;
    });
    if (!cut) return;
    step.barrier(team);
    if (!begun) return;
    for (int32_t c = begun->first_chunk(); c <= begun->last_chunk(); c++) {
        const int id = shares.owner(*begun, c);
        if (id != team.id) tile->fold(c, partial(id, c));
    }
    tile->put(y + begun->token * H * DV, H * DV);
}

}  // namespace llmc
