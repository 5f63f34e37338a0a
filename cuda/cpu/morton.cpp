#include "morton.h"

#include <utility>

namespace nfc {
namespace {

constexpr int kMortonBits = 7;  // per axis

// Every third bit of the result is one of x.
uint32_t spread_bits(uint32_t x) {
  x = (x | x << 16) & 0x030000FFu;
  x = (x | x << 8) & 0x0300F00Fu;
  x = (x | x << 4) & 0x030C30C3u;
  return (x | x << 2) & 0x09249249u;
}

}  // namespace

// Two passes of a counting sort.
const uint32_t* morton_order(const float* points, int count, Buffer<uint32_t> (&scratch)[4]) {
  constexpr int kDigit = (3 * kMortonBits + 1) / 2, kValues = 1 << kDigit;
  uint32_t *keys = scratch[0].reserve(count), *order = scratch[1].reserve(count);
  for (int i = 0; i < count; ++i) {
    uint32_t key = 0;
    for (int axis = 0; axis < 3; ++axis) {
      const float cells = float(1 << kMortonBits), place = (points[3 * size_t(i) + axis] + 1.0f) * 0.5f * cells;
      const uint32_t cell = place > 0.0f ? (place < cells - 1.0f ? uint32_t(place) : uint32_t(cells) - 1) : 0;
      key |= spread_bits(cell) << axis;
    }
    keys[i] = key, order[i] = uint32_t(i);
  }
  uint32_t *next_keys = scratch[2].reserve(count), *next = scratch[3].reserve(count);
  for (int shift = 0; shift < 3 * kMortonBits; shift += kDigit) {
    uint32_t first[kValues + 1] = {};
    for (int i = 0; i < count; ++i) ++first[(keys[i] >> shift & (kValues - 1)) + 1];
    for (int v = 0; v < kValues; ++v) first[v + 1] += first[v];
    for (int i = 0; i < count; ++i) {
      const uint32_t to = first[keys[i] >> shift & (kValues - 1)]++;
      next_keys[to] = keys[i], next[to] = order[i];
    }
    std::swap(keys, next_keys), std::swap(order, next);
  }
  return order;
}

}  // namespace nfc
