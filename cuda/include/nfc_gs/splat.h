// A projected Gaussian, as the rasterizers of the CPU and the GPU read it.
#pragma once

#include "constants.h"

namespace nfc {

constexpr int kTile = NFC_TILE_SIZE;
constexpr float kExponentScale = 0.84932180f;  // sqrt(log2(e) / 2): makes exp(-sigma) a power of two

// One cache line. 2^(log2_opacity - u^2 - v^2) with u = p dx + q dy and v = r dy is its uncapped alpha at the offset
// (dx, dy) from its mean: a sum of squares never cancels, and needs two multiply-adds.
struct alignas(16) SplatRecord {
  float mean_x, mean_y, p, q, r, log2_opacity, extent_x, extent_y;
  float conic_a, conic_b, conic_c, depth;
  int row_begin, row_end, column_begin, column_end;  // the pixels of the window that it can reach
};

}  // namespace nfc
