// Every kernel of the CPU core, compiled once per instruction set (CMake gives NFC_ISA and the flags).

#include "simd.h"  // before the mathematics, whose templates must see the operations on vectors

#include "kernels.h"

#include "../include/nfc_gs/bits.h"
#include "../include/nfc_gs/footprint.h"
#include "../include/nfc_gs/hexplane.h"
#include "../include/nfc_gs/loss.h"
#include "../include/nfc_gs/projection.h"
#include "../include/nfc_gs/sh.h"
#include "../include/nfc_gs/tiles.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

#include "rows.inl"
#include "color.inl"
#include "project.inl"
#include "tiles.inl"
#include "raster.inl"
#include "loss.inl"
#include "adam.inl"
#include "hexplane.inl"
#include "network.inl"

// The ceiling that the rasterizer is measured against (tools/bench.py): a 16 x 16 tile, splats that cover all of it,
// nothing skipped, nothing sorted, nothing stored but transmittance and color.
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

extern const Kernels kernels;
const Kernels kernels = {NFC_ISA_NAME, kLanes,     project,       list_tiles, raster, raster_backward, project_backward,
                         loss_rows,    loss_strip, loss_gradient, bit_loss,   adam,   hexplane,        hexplane_backward,
                         hexplane_scatter, plane_regularisers, network, network_backward, blend_ceiling};

}  // namespace NFC_ISA
}  // namespace nfc
