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

constexpr size_t kAhead = 16;  // how far ahead memory is fetched that is read in the order of depth

constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;

// Where the chunks of a list begin: many for a long list, so that threads can share the work, few for a short one.
struct Chunks {
  size_t count;
  int pieces;

  explicit Chunks(size_t n) : count(n), pieces(int(std::min<size_t>(kChunks, n / 16384 + 1))) {}
  size_t begin(int piece) const { return count * size_t(piece) / size_t(pieces); }
};

// The stable order of 32-bit keys by one digit: moves keys and values to spare ones, chunk by chunk.
void sort_by_digit(const Chunks& chunks, int digit, const uint32_t* keys, const uint32_t* values, uint32_t* spare_keys,
                   uint32_t* spare_values, uint32_t* histogram) {
  const int shift = kDigitBits * digit;
  parallel_for(chunks.pieces, [&](int piece) {
    uint32_t* count = histogram + size_t(piece) * kDigits;
    std::memset(count, 0, kDigits * sizeof(uint32_t));
    for (size_t i = chunks.begin(piece); i < chunks.begin(piece + 1); ++i) ++count[keys[i] >> shift & (kDigits - 1)];
  });
  uint32_t sum = 0;
  for (int d = 0; d < kDigits; ++d) {
    for (int piece = 0; piece < chunks.pieces; ++piece) {
      uint32_t& count = histogram[size_t(piece) * kDigits + d];
      const uint32_t c = count;
      count = sum, sum += c;
    }
  }
  parallel_for(chunks.pieces, [&](int piece) {
    uint32_t* next = histogram + size_t(piece) * kDigits;
    for (size_t i = chunks.begin(piece); i < chunks.begin(piece + 1); ++i) {
      const uint32_t at = next[keys[i] >> shift & (kDigits - 1)]++;
      spare_keys[at] = keys[i], spare_values[at] = values[i];
    }
  });
}

}  // namespace

size_t RenderScratch::sort_by_depth(const RenderJob& job) {
  const size_t n = size_t(job.count);
  uint32_t *keys = keys_.reserve(n), *order = order_.reserve(n);
  uint32_t *spare_keys = spare_keys_.reserve(n), *spare_order = spare_order_.reserve(n);
  uint32_t* histogram = digit_histogram_.reserve(size_t(kChunks) * kDigits);
  const Chunks all(n);
  size_t first[kChunks + 1] = {};
  parallel_for(all.pieces, [&](int piece) {
    size_t visible = 0;
    for (size_t i = all.begin(piece); i < all.begin(piece + 1); ++i) visible += job.radii[2 * i] > 0;
    first[piece + 1] = visible;
  });
  for (int piece = 0; piece < all.pieces; ++piece) first[piece + 1] += first[piece];
  parallel_for(all.pieces, [&](int piece) {
    size_t next = first[piece];
    for (size_t i = all.begin(piece); i < all.begin(piece + 1); ++i) {
      if (job.radii[2 * i] <= 0) continue;
      std::memcpy(&keys[next], &job.records[i].depth, 4);  // positive floats order like their bits
      order[next++] = uint32_t(i);
    }
  });
  const size_t visible = first[all.pieces];
  for (int digit = 0; digit < 3; ++digit) {
    sort_by_digit(Chunks(visible), digit, keys, order, spare_keys, spare_order, histogram);
    std::swap(keys, spare_keys), std::swap(order, spare_order);
  }
  return visible;
}

void RenderScratch::number_entries(size_t count) {
  uint32_t* entry_begin = entry_begin_.get();
  const Chunks chunks(count);
  uint32_t first[kChunks + 1] = {};
  parallel_for(chunks.pieces, [&](int piece) {
    uint32_t sum = 0;
    for (size_t i = chunks.begin(piece); i < chunks.begin(piece + 1); ++i) sum += entry_begin[i];
    first[piece + 1] = sum;
  });
  for (int piece = 0; piece < chunks.pieces; ++piece) first[piece + 1] += first[piece];
  parallel_for(chunks.pieces, [&](int piece) {
    uint32_t next = first[piece];
    for (size_t i = chunks.begin(piece); i < chunks.begin(piece + 1); ++i) {
      const uint32_t entries = entry_begin[i];
      entry_begin[i] = next, next += entries;
    }
  });
  entry_begin[count] = first[chunks.pieces];
}

void RenderScratch::bin(const RenderJob& job) {
  const size_t n = size_t(job.count), tiles = size_t(job.tiles_x) * job.tiles_y;
  const size_t visible = sort_by_depth(job);
  // Three moves between two buffers leave the result in the spare one; the keys are not needed any more.
  const uint32_t* const order = spare_order_.get();
  uint32_t* const first_tile = keys_.get();

  // Each chunk of the depth order lists the tiles of its Gaussians and counts per tile. Threads take chunks that are
  // far apart, so that they do not write to the same cache lines.
  uint32_t* entry_begin = entry_begin_.reserve(n + 1);
  parallel_ranges(job.count, kRowsPerPiece, [&](int begin, int end) {
    std::memset(entry_begin + begin, 0, size_t(end - begin) * sizeof(uint32_t));
  });
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
    for (size_t k = begin; k < end; ++k) {
      if (k + kAhead < end) NFC_PREFETCH(job.records + order[k + kAhead]);
      room += box_tiles(job.records[order[k]]);
    }
    uint32_t* list = chunk_tiles_[chunk].reserve(room);
    const size_t size = kernels().list_tiles(job, order + begin, int(end - begin), first_tile + begin, count, list);
    for (size_t k = begin; k < end; ++k) {
      if (k + kAhead < end) NFC_PREFETCH(entry_begin + order[k + kAhead]);
      entry_begin[order[k]] = uint32_t(k + 1 < end ? first_tile[k + 1] : size) - first_tile[k];
    }
    chunk_size_[chunk] = size;
  });
  size_t total = 0;
  for (const size_t size : chunk_size_) total += size;
  if (total > UINT32_MAX) throw std::bad_alloc();
  entries_ = total;
  number_entries(n);

  // Where each chunk writes in each tile.
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

  TileEntry* tile_entries = tile_entries_.reserve(total);
  parallel_for(kChunks, [&](int item) {
    const int chunk = chunk_of(item);
    uint32_t* next = histogram + size_t(chunk) * tiles;
    const uint32_t* tile = chunk_tiles_[chunk].get();
    const size_t end = chunk_begin(chunk + 1);
    for (size_t k = chunk_begin(chunk); k < end; ++k) {
      if (k + kAhead < end) NFC_PREFETCH(entry_begin + order[k + kAhead]);
      const uint32_t splat = order[k];
      for (uint32_t entry = entry_begin[splat]; entry < entry_begin[splat + 1]; ++entry)
        tile_entries[next[*tile++]++] = {splat, entry};
    }
  });
}

}  // namespace nfc
