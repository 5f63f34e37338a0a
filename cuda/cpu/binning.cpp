// Sorting the visible Gaussians by depth and handing them to the tiles they touch.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>

#include "parallel.h"
#include "render.h"

namespace nfc {
namespace {

constexpr int kChunks = 32;  // the list of visible Gaussians is cut into this many pieces, whatever the thread count

// ceil(x) and floor(x) + 1, kept within [0, high]; conversions are far quicker than the library's rounding.
int ceil_within(float x, int high) {
  if (!(x > 0.0f)) return 0;
  if (x >= float(high)) return high;
  const int whole = int(x);
  return whole + (float(whole) < x);
}

int end_within(float x, int high) { return !(x >= 0.0f) ? 0 : x >= float(high) ? high : int(x) + 1; }

// The ellipse that bounds a splat, { sigma <= reach }, in offsets from the mean: a dx^2 + 2 b dx dy + c dy^2 <= 2
// reach.
class Ellipse {
 public:
  explicit Ellipse(const SplatRecord& s) : s_(s) {
    // By way of ratios and of r, which knows the variance of y: the determinant of the conic cancels to nothing for
    // long needles.
    const float inv_variance_y = s.r * s.r / (kExponentScale * kExponentScale);
    inv_a_ = 1.0f / s.conic_a;
    two_reach_ = s.extent_y * s.extent_y * inv_variance_y;
    slope_ = -s.conic_b * inv_a_;  // of the line through the middles of the chords
    dy_right_ = -s.conic_b * s.extent_x / s.conic_c;
  }

  // Smallest and largest dx with low <= dy <= high.
  void range(float low, float high, float* left, float* right) const {
    low = std::max(low, -s_.extent_y), high = std::min(high, s_.extent_y);
    const float middle_low = slope_ * low, middle_high = slope_ * high;
    const float half_low = half_width(low), half_high = half_width(high);
    *right =
        dy_right_ >= low && dy_right_ <= high ? s_.extent_x : std::max(middle_low + half_low, middle_high + half_high);
    *left = -dy_right_ >= low && -dy_right_ <= high ? -s_.extent_x
                                                    : std::min(middle_low - half_low, middle_high - half_high);
  }

 private:
  // half the chord at dy: sqrt(2 reach (1 - (dy / extent_y)^2) / a)
  float half_width(float dy) const {
    const float inside = 1.0f - dy * dy / (s_.extent_y * s_.extent_y);
    return inside > 0.0f ? std::sqrt(inside * two_reach_ * inv_a_) : 0.0f;
  }

  const SplatRecord& s_;
  float two_reach_, slope_, dy_right_, inv_a_;
};

// Calls found(tile) for every tile that a splat touches, row by row. A tile counts if the ellipse reaches one of its
// pixel centres; the slack makes rounding add a tile rather than lose one.
template <class Found>
void for_each_tile(const SplatRecord& s, int tiles_x, int tiles_y, Found&& found) {
  const float slack = 0.02f, inv = 1.0f / kTile;
  const float x0 = s.mean_x - 0.5f, y0 = s.mean_y - 0.5f;  // pixel centres at integers
  const float last = float(kTile - 1);
  const int row_begin = ceil_within((y0 - s.extent_y - slack - last) * inv, tiles_y);
  const int row_end = end_within((y0 + s.extent_y + slack) * inv, tiles_y);
  const int box_begin = ceil_within((x0 - s.extent_x - slack - last) * inv, tiles_x);
  const int box_end = end_within((x0 + s.extent_x + slack) * inv, tiles_x);
  if (row_end - row_begin <= 1 || box_end - box_begin <= 1) {  // the box is exact enough
    for (int row = row_begin; row < row_end; ++row)
      for (int column = box_begin; column < box_end; ++column) found(row * tiles_x + column);
    return;
  }
  const Ellipse ellipse(s);
  for (int row = row_begin; row < row_end; ++row) {
    const float top = float(row * kTile) - y0;
    float left, right;
    ellipse.range(top - slack, top + last + slack, &left, &right);
    // Rounding grows with the ellipse: allow for it.
    const float room = slack + 1e-5f * s.extent_x;
    const int begin = std::max(box_begin, ceil_within((x0 + left - room - last) * inv, tiles_x));
    const int end = std::min(box_end, end_within((x0 + right + room) * inv, tiles_x));
    for (int column = begin; column < end; ++column) found(row * tiles_x + column);
  }
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

void Frame::bin(const RenderJob& job) {
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
  chunk_tiles_.resize(kChunks);
  const size_t chunk_size = (visible + kChunks - 1) / kChunks;
  const auto chunk_begin = [&](int chunk) { return std::min(visible, chunk_size * chunk); };
  const auto chunk_of = [](int item) { return item % 2 * (kChunks / 2) + item / 2; };
  parallel_for(kChunks, [&](int item) {
    const int chunk = chunk_of(item);
    uint32_t* count = histogram + size_t(chunk) * tiles;
    std::memset(count, 0, tiles * sizeof(uint32_t));
    std::vector<uint32_t> list = std::move(chunk_tiles_[chunk]);  // its header on this thread's own stack
    list.clear();
    for (size_t k = chunk_begin(chunk); k < chunk_begin(chunk + 1); ++k) {
      entry_begin[k] = uint32_t(list.size());  // within the chunk, for now
      for_each_tile(job.records[order[k]], job.tiles_x, job.tiles_y, [&](int tile) {
        list.push_back(uint32_t(tile));
        ++count[tile];
      });
    }
    chunk_tiles_[chunk] = std::move(list);
  });
  size_t total = 0;
  for (const std::vector<uint32_t>& list : chunk_tiles_) total += list.size();
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
    first_entry[chunk + 1] = first_entry[chunk] + uint32_t(chunk_tiles_[chunk].size());
  entry_begin[visible] = slots;

  TileEntry* tile_entries = tile_entries_.reserve(total);
  parallel_for(kChunks, [&](int item) {
    const int chunk = chunk_of(item);
    uint32_t* next = histogram + size_t(chunk) * tiles;
    const uint32_t* tile = chunk_tiles_[chunk].data();
    const uint32_t* const end = tile + chunk_tiles_[chunk].size();
    uint32_t entry = first_entry[chunk];
    for (size_t k = chunk_begin(chunk); k < chunk_begin(chunk + 1); ++k) {
      const bool last = k + 1 == chunk_begin(chunk + 1);
      const uint32_t* const stop = last ? end : chunk_tiles_[chunk].data() + entry_begin[k + 1];
      entry_begin[k] += first_entry[chunk];
      for (; tile < stop; ++tile, ++entry) tile_entries[next[*tile]++] = {order[k], entry};
    }
  });
}

}  // namespace nfc
