// The speed limit that the rasterizer is measured against (tools/bench).
#pragma once

#include "simd.h"
#include "jobs.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

// Blends splats that each cover a whole 16 x 16 tile: nothing is skipped or sorted, and only transmittance and color
// are stored.
float blend_ceiling(int splats, int repeats) {
  alignas(64) float T[kTilePixels], sum[3][kTilePixels];
  float result = 0.0f;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    for (int i = 0; i < kTilePixels; ++i) T[i] = 1.0f, sum[0][i] = sum[1][i] = sum[2][i] = 0.0f;
    for (int s = 0; s < splats; ++s) {
      const float mean_x = 8.0f + 0.001f * float(s % 7), mean_y = 8.0f - 0.001f * float(s % 5);
      const float color[3] = {0.25f, 0.5f, 0.001f * float(s % 11)};
      for (int row = 0; row < kTile; ++row) {
        const float dy = float(row) + 0.5f - mean_y;
        for (int column = 0; column < kTile; column += kLanes) {
          float x[kLanes];
          for (int i = 0; i < kLanes; ++i) x[i] = float(column + i) + 0.5f;
          const Vf u = 0.05f * (load(x) - mean_x) + 0.01f * dy;
          const Vf alpha = exp_2((-8.0f - 0.0025f * dy * dy) - u * u);
          const int pixel = kTile * row + column;
          const Vf t = load(T + pixel), weight = alpha * t;
          store(T + pixel, t - weight);
          for (int c = 0; c < 3; ++c) store(sum[c] + pixel, load(sum[c] + pixel) + weight * color[c]);
        }
      }
    }
    result += T[0] + sum[0][17] + sum[1][34] + sum[2][255];
  }
  return result;
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
