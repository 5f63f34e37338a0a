// Sorts the visible Gaussians by depth and lists them in the tiles that they touch.

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "dispatch.h"
#include "render.h"

namespace nfc {
namespace {

// How many tiles the box of a splat meets.
size_t box_tiles(const SplatRecord& s) {
  const int rows = (s.row_end + kTile - 1) / kTile - s.row_begin / kTile;
  const int columns = (s.column_end + kTile - 1) / kTile - s.column_begin / kTile;
  return size_t(std::max(rows, 0)) * size_t(std::max(columns, 0));
}

// Stable least-significant-digit radix sort of 32-bit keys; the result is in keys and values.
void radix_sort(size_t n, uint32_t*& keys, uint32_t*& values, uint32_t*& spare_keys, uint32_t*& spare_values) {
  constexpr int kBits = 11, kDigits = 1 << kBits;
  static thread_local uint32_t counts[3][kDigits];
  std::memset(counts, 0, sizeof counts);
  for (size_t i = 0; i < n; ++i)
    for (int pass = 0; pass < 3; ++pass) ++counts[pass][keys[i] >> (kBits * pass) & (kDigits - 1)];
  for (int pass = 0; pass < 3; ++pass) {
    uint32_t* count = counts[pass];
    uint32_t sum = 0;
    bool one_digit = false;
    for (int d = 0; d < kDigits; ++d) {
      one_digit |= count[d] == n;
      const uint32_t c = count[d];
      count[d] = sum, sum += c;
    }
    if (one_digit) continue;
    for (size_t i = 0; i < n; ++i) {
      const uint32_t at = count[keys[i] >> (kBits * pass) & (kDigits - 1)]++;
      spare_keys[at] = keys[i], spare_values[at] = values[i];
    }
    std::swap(keys, spare_keys), std::swap(values, spare_values);
  }
}

}  // namespace

void RenderScratch::bin(const RenderJob& job) {
  const size_t n = size_t(job.count), tiles = size_t(job.tiles_x) * job.tiles_y;
  uint32_t *keys = keys_.reserve(n), *order = order_.reserve(n);
  uint32_t *spare_keys = spare_keys_.reserve(n), *spare_order = spare_order_.reserve(n);
  size_t visible = 0;
  for (size_t i = 0; i < n; ++i) {
    if (job.radii[2 * i] <= 0) continue;
    std::memcpy(&keys[visible], &job.records[i].depth, 4);  // positive floats order like their bits
    order[visible++] = uint32_t(i);
  }
  radix_sort(visible, keys, order, spare_keys, spare_order);

  uint32_t* splat_rank = splat_rank_.reserve(n);
  for (size_t k = 0; k < visible; ++k) splat_rank[order[k]] = uint32_t(k);

  // Each chunk of the depth order lists the tiles of its Gaussians and counts per tile. Threads take chunks that are
  // far apart, so that they do not write to the same cache lines.
  uint32_t* entry_begin = entry_begin_.reserve(visible + 1);
  uint32_t* histogram = histogram_.reserve(kChunks * tiles);
  const size_t chunk_size = (visible + kChunks - 1) / kChunks;
  const auto chunk_begin = [&](int chunk) { return std::min(visible, chunk_size * chunk); };
  const auto chunk_of = [](int item) { return item % 2 * (kChunks / 2) + item / 2; };
  parallel_for(kChunks, [&](int item) {
    const int chunk = chunk_of(item);
    uint32_t* count = histogram + size_t(chunk) * tiles;
    std::memset(count, 0, tiles * sizeof(uint32_t));
    const size_t begin = chunk_begin(chunk), end = chunk_begin(chunk + 1);
    size_t room = 0;
    for (size_t k = begin; k < end; ++k) room += box_tiles(job.records[order[k]]);
    uint32_t* list = chunk_tiles_[chunk].reserve(room);
    chunk_size_[chunk] = kernels().list_tiles(job, order + begin, int(end - begin), entry_begin + begin, count, list);
  });
  size_t total = 0;
  for (const size_t size : chunk_size_) total += size;
  if (total > UINT32_MAX) throw std::bad_alloc();
  entries_ = total;

  // Where each chunk writes in each tile, and where its entries begin.
  uint32_t* tile_begin = tile_begin_.reserve(tiles + 1);
  uint32_t slots = 0;
  for (size_t tile = 0; tile < tiles; ++tile) {
    tile_begin[tile] = slots;
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      uint32_t& count = histogram[size_t(chunk) * tiles + tile];
      const uint32_t c = count;
      count = slots, slots += c;
    }
  }
  tile_begin[tiles] = slots;
  uint32_t first_entry[kChunks + 1] = {};
  for (int chunk = 0; chunk < kChunks; ++chunk)
    first_entry[chunk + 1] = first_entry[chunk] + uint32_t(chunk_size_[chunk]);
  entry_begin[visible] = slots;

  TileEntry* tile_entries = tile_entries_.reserve(total);
  parallel_for(kChunks, [&](int item) {
    const int chunk = chunk_of(item);
    uint32_t* next = histogram + size_t(chunk) * tiles;
    const uint32_t* const tiles_of_chunk = chunk_tiles_[chunk].get();
    const uint32_t* const end = tiles_of_chunk + chunk_size_[chunk];
    const uint32_t* tile = tiles_of_chunk;
    uint32_t entry = first_entry[chunk];
    for (size_t k = chunk_begin(chunk); k < chunk_begin(chunk + 1); ++k) {
      const bool last = k + 1 == chunk_begin(chunk + 1);
      const uint32_t* const stop = last ? end : tiles_of_chunk + entry_begin[k + 1];
      entry_begin[k] += first_entry[chunk];
      for (; tile < stop; ++tile, ++entry) tile_entries[next[*tile]++] = {order[k], entry};
    }
  });
}

}  // namespace nfc
