// What the per-instruction-set kernels share with the code that calls them: plain data and function pointers.
// Nothing here may use the standard library's templates (see the note on namespaces in numeric.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "../include/nfc_gs/adam.h"
#include "../include/nfc_gs/splat.h"

namespace nfc {

constexpr int kTilePixels = kTile * kTile;
constexpr int kMaxChannels = 64;
constexpr int kMaxChannelsAtOnce = 4;  // in one walk over a tile's splats
constexpr int kMoments = 8;  // geometric sums a splat collects from a tile, before its channels (see raster.inl)
constexpr int kMaxBases = 16;

// One (tile, Gaussian) pair; `entry` is its place if all pairs are ordered by Gaussian, for the sums of backward.
struct TileEntry {
  uint32_t splat, entry;
};

struct CameraArgs {
  float viewmat[16], intrinsics[4];  // row-major; fx, fy, cx, cy
  int width, height;
};

// Everything one rendering reads, keeps and writes. Arrays are row-major; null where not asked for.
struct RenderJob {
  CameraArgs camera;
  int count, sh_bases, sh_degree;        // sh_bases: bases of view dependence stored per Gaussian, 0 for no color
  int color_channels, feature_channels;  // color: 3; 24 if the bits themselves are composited; 0 for none
  int channels;                          // color + features + depth (1 or 0)
  bool antialiased, depth;
  const float *means, *quats, *scales, *opacities, *features, *background;
  // Color, one of two: sh [N, sh_bases, 3]; or bit_logits [N, 24] and bit_shifts [N, sh_bases - 1, shift_columns],
  // where shift_columns is 3 (a shift for the eight logits of a channel) or 24 (one for each logit).
  const float *sh, *bit_logits, *bit_shifts;
  int shift_columns;

  // kept from forward to backward
  SplatRecord* records;  // [N]
  float* colors;         // [N, channels]
  int tiles_x, tiles_y;
  const uint32_t* tile_begin;     // [tiles + 1] ranges of tile_entries
  const TileEntry* tile_entries;  // [M] nearest first within a tile
  const uint32_t* splat_rank;     // [N] the place of a visible Gaussian in the order of depth
  const uint32_t* entry_begin;    // [visible + 1] by rank: the entries of a Gaussian
  uint32_t* tile_used;            // [tiles] entries blended before the tile was opaque

  // results
  int32_t* radii;                      // [N, 2]
  float* means2d;                      // [N, 2]
  float *out, *out_alpha, *out_depth;  // [H, W, channels - depth], [H, W], [H, W]

  // backward
  bool absgrad;
  const float *v_out, *v_alpha, *v_depth;
  float* partial;          // [M, kMoments + channels]
  float* tile_background;  // [tiles, channels] or null
  float* camera_partial;   // [blocks of kCameraBlock Gaussians, 12]
  float *v_means, *v_quats, *v_scales, *v_opacities, *v_features, *v_means2d, *v_means2d_abs;
  float *v_sh, *v_bit_logits, *v_bit_shifts;  // those of the color in use
};

constexpr int kCameraBlock = 1024;  // Gaussians that are listed, and whose view matrix gradients are summed, together

struct LossJob {
  int width, height;
  const float* rendered;  // [H, W, 3]
  const uint8_t* target;  // [H, W, 3]
  const uint8_t* mask;    // [H, W] or null
  float l1_weight, mse_weight, ssim_weight, ce_weight, ce_eps;
  float inv_count;     // 1 / (3 * number of pixels that count)
  float* gradient;     // [H, W, 3] or null
  float* blurred;      // [4, H, stride] scratch: x, y, x^2 + y^2, xy along rows; then `derivative` down columns
  float* derivative;   // [3, H, stride] scratch: d loss / d (mu_x, E[x^2 + y^2], E[xy])
  int stride;          // floats of a scratch row
  double* strip_sums;  // [strips] 1 - SSIM, summed over counted values
  double* row_sums;    // [H, 3]: absolute and squared error and cross entropy, summed over counted values
};

// Cross entropy of composited bit probabilities with the bits of a picture.
struct BitLossJob {
  int width, height;
  const float* probabilities;  // [H, W, 24]
  const uint8_t* target;       // [H, W, 3]
  const uint8_t* mask;         // [H, W] or null
  float eps;                   // probabilities are clipped to [eps, 1 - eps]
  float inv_count;             // 1 / (3 * number of pixels that count)
  float* gradient;             // [H, W, 24] or null
  double* row_sums;            // [H]
};

constexpr int kStrip = 64;  // values of a row that are blurred down their columns at once

struct AdamJob {
  int rows, columns;
  float* value;
  const float* gradient;
  float *first, *second;
  const uint8_t* visible;                   // [rows] or null: all
  const float* rates;                       // [columns]
  AdamConstants constants;
};

constexpr int kMaxLevels = 8;

// A look-up of points in the planes of a HexPlane.
struct HexPlaneJob {
  int count, levels, features;                                // features: a multiple of every kLanes
  const float* planes[6 * kMaxLevels];                        // [rows, columns, features] each, six per level
  int rows[6 * kMaxLevels], columns[6 * kMaxLevels];          // at least 2
  const float* coords;                                        // [count, 3], the box is [-1, 1]
  const uint32_t* order;                                      // [count] in which the points are taken
  float time;                                                 // in [-1, 1]
  float* out;                                                 // [count, levels, features]

  // backward
  const float* v_out;
  float* v_planes[6 * kMaxLevels];
  float* v_coords;                // [count, 3]
  float* v_found;                 // [6 levels, found_stride] scratch: [points, features] for each plane
  size_t found_stride;
  int block_begin, block_end;     // the points whose gradients are in it
};

// The gradient of a plane's regularisers, each a weight times what the row's values have to do with it.
struct PlaneJob {
  int rows, columns, features;
  const float* plane;
  float* v_plane;
  float along_columns, along_rows, bend, from_one;
};

constexpr int kPointsPerTile = 32;  // that go through a network together
constexpr int kMaxWidth = 256;

// A network of two hidden layers. Weights are [outputs, inputs], row-major.
struct NetworkJob {
  int count, inputs, width;    // inputs and width: multiples of 16, at most kMaxWidth
  int outputs, padded_outputs;  // padded to a multiple of 8: w3 has rows of zeros
  const float* x;              // [count, inputs]
  const float *w1, *b1, *w2, *b2, *w3, *b3;
  float* out;  // [count, outputs]

  // backward
  const float* v_out;
  const float *w1_transposed, *w2_transposed, *w3_transposed;
  float* v_x;  // [count, inputs]
};

struct Kernels {
  const char* name;
  int lanes;
  void (*project)(const RenderJob&, int begin, int end);
  // Lists the tiles that `count` Gaussians touch, one after the other, and counts them per tile: `first` gets the
  // place of each Gaussian's first tile in `list`, `histogram` one more for each tile. Returns the length of the list.
  size_t (*list_tiles)(const RenderJob&, const uint32_t* splats, int count, uint32_t* first, uint32_t* histogram,
                       uint32_t* list);
  void (*raster)(const RenderJob&, int tile);
  void (*raster_backward)(const RenderJob&, int tile);
  void (*project_backward)(const RenderJob&, int block);
  void (*loss_rows)(const LossJob&, int row);
  void (*loss_strip)(const LossJob&, int strip);
  void (*loss_gradient)(const LossJob&, int row);
  void (*bit_loss)(const BitLossJob&, int row);
  void (*adam)(const AdamJob&, int begin, int end);
  void (*hexplane)(const HexPlaneJob&, int begin, int end);
  void (*hexplane_backward)(const HexPlaneJob&, int begin, int end);
  void (*hexplane_scatter)(const HexPlaneJob&, int plane);
  void (*plane_regularisers)(const PlaneJob&, int row);
  void (*network)(const NetworkJob&, int tile);
  void (*network_backward)(const NetworkJob&, int tile, float* partial);
  float (*blend_ceiling)(int splats, int repeats);
};

// The best kernels this machine can run, or the named ones ("baseline", "avx2", "avx512"); null if it cannot.
const Kernels* best_kernels();
const Kernels* kernels_by_name(const char* name);

}  // namespace nfc
