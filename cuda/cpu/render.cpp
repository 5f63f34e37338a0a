#include "render.h"

#include <algorithm>

#include "dispatch.h"
#include "stages.h"

namespace nfc {
namespace {

constexpr size_t kPartialPadding = 64;  // floats that a vector may read beyond the last entry

}  // namespace


void RenderScratch::attach(RenderJob& job) {
  const size_t n = size_t(job.count);
  const CameraArgs& c = job.camera;
  job.tile_left = c.left / kTile, job.tiles_x = pieces_of(c.left + c.width, kTile) - job.tile_left;
  job.tile_top = c.top / kTile, job.tiles_y = pieces_of(c.top + c.height, kTile) - job.tile_top;
  job.records = records_.reserve(n);
  job.colors = colors_.reserve(n * job.channels);
  job.tile_used = tile_used_.reserve(size_t(job.tiles_x) * job.tiles_y);
  job.tile_begin = tile_begin_.get(), job.tile_entries = tile_entries_.get();
  job.entry_begin = entry_begin_.get();
}

void RenderScratch::forward(RenderJob& job) {
  const Kernels& k = kernels();
  attach(job);
  tile_left_ = job.tile_left, tile_top_ = job.tile_top, tiles_x_ = job.tiles_x, tiles_ = job.tiles_x * job.tiles_y;
  {
    StageTimer timer(kProject);
    parallel_ranges(job.count, kRowsPerPiece, [&](int begin, int end) { k.project(job, begin, end); });
  }
  {
    StageTimer timer(kBin);
    bin(job);
    attach(job);
  }
  StageTimer timer(kRaster);
  parallel_for(tiles_, [&](int tile) { k.raster(job, tile); });
}

void RenderScratch::backward(RenderJob& job, float* v_viewmat, float* v_background) {
  const Kernels& k = kernels();
  attach(job);
  const int tiles = tiles_, blocks = pieces_of(job.count, kCameraBlock);
  job.partial = partial_.reserve(entries_ * size_t(job.moments() + job.channels) + kPartialPadding);
  job.tile_background = v_background ? tile_background_.reserve(size_t(tiles) * job.channels) : nullptr;
  job.camera_partial = camera_partial_.reserve(12 * size_t(blocks));
  {
    StageTimer timer(kRasterBackward);
    parallel_for(tiles, [&](int tile) { k.raster_backward(job, tile); });
  }
  StageTimer timer(kProjectBackward);
  parallel_for(blocks, [&](int block) { k.project_backward(job, block); });
  if (v_viewmat) {
    double sum[12] = {};
    for (int block = 0; block < blocks; ++block)
      for (int j = 0; j < 12; ++j) sum[j] += double(job.camera_partial[12 * size_t(block) + j]);
    for (int j = 0; j < 16; ++j) v_viewmat[j] = j < 12 ? float(sum[j]) : 0.0f;
  }
  if (v_background) {
    const int channels = job.channels - (job.depth ? 1 : 0);
    for (int c = 0; c < channels; ++c) {
      double sum = 0.0;
      for (int tile = 0; tile < tiles; ++tile) sum += double(job.tile_background[size_t(tile) * job.channels + c]);
      v_background[c] = float(sum);
    }
  }
}

size_t RenderScratch::evaluated_pairs() const {
  constexpr int kBlock = 4;
  size_t blocks = 0;
  for (int tile = 0; tile < tiles_; ++tile) {
    const int top = (tile_top_ + tile / tiles_x_) * kTile, left = (tile_left_ + tile % tiles_x_) * kTile;
    const uint32_t begin = tile_begin_.get()[tile];
    for (uint32_t slot = begin; slot < begin + tile_used_.get()[tile]; ++slot) {
      const SplatRecord& s = records_.get()[tile_entries_.get()[slot].splat];
      const int rows = pieces_of(std::min(s.row_end - top, kTile), kBlock) - std::max(s.row_begin - top, 0) / kBlock;
      const int columns = pieces_of(std::min(s.column_end - left, kTile), kBlock) - std::max(s.column_begin - left, 0) / kBlock;
      blocks += size_t(std::max(0, rows)) * size_t(std::max(0, columns));
    }
  }
  return blocks * kBlock * kBlock;
}

}  // namespace nfc
