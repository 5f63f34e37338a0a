// The arguments of the kernels: plain data, shared by the kernels of every instruction set and the code that calls
// them. Nothing here may use the standard library's templates (see the note on namespaces in numeric.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../include/nfc_gs/adam.h"
#include "../../include/nfc_gs/mcmc.h"
#include "../../include/nfc_gs/splat.h"

namespace nfc {

constexpr int kTilePixels = kTile * kTile;
constexpr int kMaxChannels = 64;
constexpr int kMaxChannelsAtOnce = 4;  // composited in one pass over a tile's splats
constexpr int kPlainMoments = 6;  // geometric sums of a splat over the pixels of a tile (see raster.inl) ...
constexpr int kAllMoments = 8;    // ... and with absolute gradients
constexpr int kMaxBases = 16;

// One (tile, Gaussian) pair; `entry` is its index in the list of all pairs ordered by Gaussian, in which the backward
// pass adds up the gradients.
struct TileEntry {
  uint32_t splat, entry;
};

// A camera that draws the `width` x `height` pixels of a picture that begin at (left, top).
struct CameraArgs {
  float viewmat[16], intrinsics[4];  // row-major; fx, fy, cx, cy in pixels of the whole picture
  int width, height, left, top;
  int whole_width, whole_height;
};

struct AdamJob {
  int rows, columns;
  float* value;
  const float* gradient;
  float *first, *second;
  BFloat16 *first16, *second16;             // instead of these two, where they are null
  const uint8_t* visible;                   // [rows] or null: all
  const float* rates;                       // [columns]
  AdamConstants constants;
};

// A step of Adam on the visible Gaussians, which the backward pass takes instead of writing their gradients. The jobs
// hold no gradients; those of parameters that there are not hold nothing.
struct SplatAdam {
  AdamJob means, quats, log_scales, opacity_logits, sh_coeffs, bit_logits, bit_shifts;
  float opacity_weight, scale_weight;  // of the sums of all opacities and scales, which are minimised beside the loss
};

// Everything one rendering reads, keeps and writes. Arrays are row-major; null if not requested.
struct RenderJob {
  CameraArgs camera;
  int count, sh_bases, sh_degree;        // sh_bases: bases of view dependence stored per Gaussian, 0 for no color
  int color_channels, feature_channels;  // color: 3; 24 if the bits themselves are composited; 0 for none
  int channels;                          // color + features + depth (1 or 0)
  bool antialiased, depth;
  bool raw;  // scales are logarithms and opacities logits, and so are their gradients
  const float *means, *quats, *scales, *opacities, *features, *background;
  // Color, one of two: sh_coeffs [N, sh_bases, 3]; or bit_logits [N, 24] and bit_shifts [N, sh_bases - 1,
  // shift_columns], where shift_columns is 3 (a shift for the eight logits of a channel) or 24 (one for each logit).
  const float *sh_coeffs, *bit_logits, *bit_shifts;
  int shift_columns;

  // kept from forward to backward
  SplatRecord* records;  // [N]
  float* colors;         // [N, channels]
  int tile_left, tile_top;  // in tiles of the whole picture: the first ones that the window meets
  int tiles_x, tiles_y;     // how many it meets
  const uint32_t* tile_begin;     // [tiles + 1] ranges of tile_entries
  const TileEntry* tile_entries;  // [M] nearest first within a tile
  const uint32_t* entry_begin;    // [N + 1] the entries of a Gaussian
  uint32_t* tile_used;            // [tiles] entries until the tile was opaque, in whole chunks (chunk.inl)

  // results
  int32_t* radii;                      // [N, 2]
  float* means2d;                      // [N, 2]
  float *out, *out_alpha, *out_depth;  // [H, W, channels - depth], [H, W], [H, W]

  // backward
  bool absgrad;
  int moments() const { return absgrad ? kAllMoments : kPlainMoments; }
  const float *v_out, *v_alpha, *v_depth;
  float* partial;          // [M, moments + channels]
  float* tile_background;  // [tiles, channels] or null
  float* camera_partial;   // [blocks of kCameraBlock Gaussians, 12]
  float *v_means, *v_quats, *v_scales, *v_opacities, *v_features, *v_means2d, *v_means2d_abs;
  float *v_sh_coeffs, *v_bit_logits, *v_bit_shifts;  // of the color in use; null for the others
  const SplatAdam* adam;  // null, or what takes the gradients of `raw` splats: then v_means to v_bit_shifts are null
};

constexpr int kCameraBlock = 1024;  // Gaussians of one item of work, over which the view matrix's gradient is summed

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

// Cross entropy of composited bit probabilities with the bits of an image.
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

enum class ValueType { kByte, kFloat, kDouble };

// An image [H, W, 3] in memory: bytes, or floats, of which those beyond 0 and 1 are clamped.
struct ImageValues {
  const void* data;
  ValueType type;
};

constexpr int kMetricChunk = 768;  // values of a row that are compared at once: 256 pixels
constexpr int kRingValues = 4 * NFC_SSIM_WINDOW * kMetricChunk;

// How alike two images are.
struct SimilarityJob {
  int width, height;
  ImageValues x, y;
  const uint8_t* counted;  // [H, W] not 0 where a pixel counts; or null: all do
  double window[NFC_SSIM_WINDOW], c1, c2;  // of SSIM
};

constexpr int kStrip = 64;  // values of a row that are blurred down their columns at once

struct NoiseJob {
  float* means;
  const float *quats, *log_scales, *opacity_logits;
  NoiseConstants constants;
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
  float* v_samples;               // [6 levels, sample_stride] scratch: v of each plane's sample, [points, features]
  size_t sample_stride;
  int block_begin, block_end;     // the points whose gradients `v_samples` holds
};

// The gradient of a plane's regularisers: half the weight times the sum of squared differences of neighbours along
// columns (tv_columns) and rows (tv_rows), half the weight times the sum of squared second differences along rows
// (smoothness), and the weight times the sum of |value - 1| (sparsity).
struct PlaneJob {
  int rows, columns, features;
  const float* plane;
  float* v_plane;  // added to
  float tv_columns, tv_rows, smoothness, sparsity;
};

constexpr int kPointsPerTile = 32;  // evaluated by a network together
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

}  // namespace nfc
