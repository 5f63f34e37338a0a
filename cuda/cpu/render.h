// One rendering on the CPU, forward and backward.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "kernels/jobs.h"
#include "parallel.h"

namespace nfc {

// The memory of one rendering: all that its forward pass keeps for its backward pass. Used again from step to step, so
// that nothing is allocated in a training step.
class RenderScratch {
 public:
  // Renders `job`, whose inputs and results the caller has set.
  void forward(RenderJob& job);
  // Gradients of the last forward pass; `job` as it was then, with the gradient pointers set.
  // v_viewmat: [16] or null. v_background: [channels] or null.
  void backward(RenderJob& job, float* v_viewmat, float* v_background);

  // Of the last forward: the number of (Gaussian, tile) pairs, and of pixel-Gaussian pairs in reach: blocks of 4 x 4
  // pixels that the box of a splat meets, until the tile was opaque.
  size_t entries() const { return entries_; }
  size_t evaluated_pairs() const;

 private:
  void attach(RenderJob& job);  // sets the job's pointers to this memory
  // Lists the Gaussians of each tile by depth (binning.cpp).
  void bin(const RenderJob& job);
  size_t sort_by_depth(const RenderJob& job);  // puts the visible Gaussians into spare_order_; returns their number
  void number_entries(size_t count);           // from the number of each Gaussian's entries to the first of them

  size_t entries_ = 0;
  int tile_left_ = 0, tile_top_ = 0, tiles_x_ = 0, tiles_ = 0;
  Buffer<SplatRecord> records_;
  Buffer<float> colors_, partial_, tile_background_, camera_partial_;
  Buffer<uint32_t> tile_begin_, tile_used_, entry_begin_;
  Buffer<TileEntry> tile_entries_;
  Buffer<uint32_t> keys_, order_, spare_keys_, spare_order_, histogram_, digit_histogram_;
  Buffer<uint32_t> chunk_tiles_[kChunks];
  size_t chunk_size_[kChunks] = {};
};

}  // namespace nfc
