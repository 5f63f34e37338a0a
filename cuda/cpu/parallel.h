// A small thread pool. Work is cut into items whose results never depend on which thread takes them.
#pragma once

#include <algorithm>
#include <functional>

namespace nfc {

// How many threads `parallel_for` uses, the calling one included; at least 1.
void set_thread_count(int count);
int thread_count();

// Calls body(i) for every i in [0, items), in any order, on all threads; returns when all are done. One caller at a
// time has the pool; others wait.
void parallel_for(int items, const std::function<void(int)>& body);

// How many pieces of `size` cover `count`.
inline int pieces_of(int count, int size) { return (count + size - 1) / size; }

// Calls body(begin, end) for every piece [begin, end) of [0, count); all but the last are `size` long.
template <class Body>
void parallel_ranges(int count, int size, const Body& body) {
  parallel_for(pieces_of(count, size), [&](int piece) { body(piece * size, std::min((piece + 1) * size, count)); });
}

constexpr int kRowsPerPiece = 512;  // Gaussians or points of an item of parallel work

// Pieces that a sum or a sort is cut into: never the number of threads, so that results do not depend on it.
constexpr int kChunks = 32;

}  // namespace nfc
