// The argument of the kernels of a rendering, and which thread has which pixel of a tile.
#pragma once

#include "../include/nfc_gs/adam.h"
#include "../include/nfc_gs/projection.h"
#include "../include/nfc_gs/splat.h"
#include "kernel.h"

namespace nfc {

constexpr int kTilePixels = kTile * kTile;
constexpr int kMoments = 8;  // geometric sums of a splat over the pixels of a tile (see raster.cu)
constexpr int kMaxBases = 16;
constexpr int kCameraTerms = 12;

// A tensor of raw Gaussians and its moments; the first columns have a learning rate of their own.
struct SplatParameter {
  float* value;
  void *first, *second;
  int first_columns;
  float first_rate, rate;
};

// A step of Adam on visible Gaussians, in place of storing their gradients (`SplatStep` of nfc_gs/ops/arguments.py).
struct SplatAdam {
  SplatParameter means, quats, log_scales, opacity_logits, sh_coeffs, bit_logits, bit_shifts;
  AdamConstants constants;
  int bfloat16_moments;                // moments are BFloat16, not float
  float opacity_weight, scale_weight;  // of the sums of all opacities and scales, which are minimised beside the loss
};

// `RenderArgs` of nfc_gs/ops/kernel_args.py is the same struct; a test compares the two. Arrays are row-major; null if
// not requested. N Gaussians, room for M entries: pairs of a tile and a Gaussian that may reach it. `entry_end` knows how
// many entries there are, which the CPU may not know yet. Where there are fewer, the rest belongs to a tile beyond the
// last. Where there are more, the farthest are left out, and the CPU takes care that nothing comes of the rendering.
struct RenderArgs {
  // inputs, as in nfc_gs/rendering/backend.py; either scales and opacities are given, or log_scales and opacity_logits
  const float *means, *quats, *scales, *opacities, *log_scales, *opacity_logits, *sh_coeffs, *bit_logits, *bit_shifts,
      *features, *background, *viewmat;

  // kept from forward to backward
  SplatRecord* records;  // [N]
  float* colors;         // [N, channels]
  float* depths;         // [N] infinite where a Gaussian is invisible: the key of the sort
  int* touched;          // [N] entries of each Gaussian
  int* radii;            // [N, 2]
  float* means2d;        // [N, 2]
  const long long* order;        // [N] Gaussians, nearest first
  const long long* entry_end;    // [N] in that order: the end of a Gaussian's entries
  long long* entry_begin;        // [N] by Gaussian: where its entries begin
  int* entry_splat;              // [M]
  void* entry_tile;              // [M] int16 or int32 (wide_tiles): the key of the second sort
  const void* slot_tile;         // [M] the same, sorted
  const long long* slot_entry;   // [M] entries tile by tile, nearest first
  int* slot_splat;               // [M]
  int* tile_begin;               // [tiles + 1] ranges of slots
  int* bucket_splats;            // [1] splats of a tile that one warp of the backward pass takes, as below
  int* tile_reached;             // [tiles] how many of its splats the forward pass has come to
  int* bucket_tile;              // [buckets] the tile of a bucket; -1 where there is none
  float* bucket_transmittance;   // [buckets, 256] before its first splat; negative where the pixel is finished
  float* bucket_sum;             // [buckets, channels, 256] what has been blended before it

  // results
  float *out, *out_alpha, *out_depth;  // [H, W, channels - depth], [H, W], [H, W]

  // backward
  const float *v_out, *v_alpha, *v_depth;
  float* v_pixel;   // [tiles, NFC_CHANNELS, 256] gradient of what is composited
  float* behind;    // [tiles, 256] sum over channels of gradient times composited value
  float* partial;   // [M, kMoments + channels] sums over the pixels of a tile for one Gaussian
  float* camera_partial;  // [blocks, 12] gradient of the first three rows of viewmat
  float *v_means, *v_quats, *v_scales, *v_opacities, *v_log_scales, *v_opacity_logits, *v_sh_coeffs, *v_bit_logits,
      *v_bit_shifts, *v_features, *v_means2d, *v_means2d_abs;

  int count, entries, buckets;  // entries and buckets: for how many there is room
  // bucket_splats is a power of two between these, at most 256, and as large as leaves that many buckets.
  int smallest_bucket, largest_bucket, backward_warps;
  int sh_bases, sh_degree, shift_columns;
  int color_channels, feature_channels, channels;  // channels: both and depth (1 or 0)
  int first_channel;                                // of the NFC_CHANNELS that a launch of raster.cu takes
  int antialiased, depth, absgrad, keep, wide_tiles;  // keep: a backward pass may follow
  // The part of the whole picture that is drawn: its tiles, counted in the whole picture, and its pixels.
  int tile_left, tile_top, tiles_x, tiles_y;
  int left, top, width, height;
  int whole_width, whole_height;
  float fx, fy, cx, cy;  // in pixels of the whole picture
  SplatAdam adam;        // of project_splats_backward_adam and its variants, which write no v_means to v_bit_shifts
};

NFC_HD PinholeCamera camera_of(const RenderArgs& args) {
  const float intrinsics[4] = {args.fx, args.fy, args.cx, args.cy};
  const PixelBox window = {args.left, args.top, args.left + args.width, args.top + args.height};
  return make_camera(args.viewmat, intrinsics, args.whole_width, args.whole_height, window);
}

// The index of a tile's first bucket. There is room for up to one bucket more per tile than its splats need, so that
// the index needs no sum over the tiles before it.
NFC_HD int first_bucket(int bucket_splats, int tile, int tile_begin) { return tile_begin / bucket_splats + tile; }

struct Pixel {
  int x, y;  // in the whole picture
};

// The first pixel of a tile.
NFC_HD Pixel corner_of(const RenderArgs& args, int tile) {
  return {(args.tile_left + tile % args.tiles_x) * kTile, (args.tile_top + tile / args.tiles_x) * kTile};
}

// A pixel of the tile with this corner. Each warp has 8 x 4 pixels, so that small splats concern few warps.
NFC_HD Pixel pixel_of(const Pixel& corner, int thread) {
  const int warp = thread / kWarp, lane = thread % kWarp;
  return {corner.x + warp % 2 * 8 + lane % 8, corner.y + warp / 2 * 4 + lane / 8};
}

// Whether a pixel is drawn, and the index of one that is.
NFC_HD bool is_inside(const RenderArgs& args, const Pixel& pixel) {
  return pixel.x >= args.left && pixel.x < args.left + args.width && pixel.y >= args.top &&
         pixel.y < args.top + args.height;
}

NFC_HD size_t index_of(const RenderArgs& args, const Pixel& pixel) {
  return size_t(pixel.y - args.top) * args.width + size_t(pixel.x - args.left);
}

}  // namespace nfc
