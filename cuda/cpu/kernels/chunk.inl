// A tile, its blocks of 4 x 4 pixels, and chunks of its splats with a list for each block of those that reach it.
#pragma once

#include <cstddef>

#include "simd.h"
#include "rows.inl"
#include "jobs.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

constexpr int kBlock = 4, kBlockPixels = kBlock * kBlock;  // pixels along an edge, and in all
constexpr int kBlockVectors = kBlockPixels / kLanes;
constexpr int kBlocksAcross = kTile / kBlock, kBlocks = kBlocksAcross * kBlocksAcross;

// Where a pixel of a tile lies in memory; the pixels of a block follow each other.
inline int pixel_at(int row, int column) {
  const int block = row / kBlock * kBlocksAcross + column / kBlock;
  return block * kBlockPixels + row % kBlock * kBlock + column % kBlock;
}

// A row of a tile's pixels, from memory and to it.
inline void load_row(const float* pixels, int row, float* to) {
  for (int i = 0; i < kTile; i += kBlock) memcpy(to + i, pixels + pixel_at(row, i), kBlock * sizeof(float));
}
inline void store_row(const float* from, int row, float* pixels) {
  for (int i = 0; i < kTile; i += kBlock) memcpy(pixels + pixel_at(row, i), from + i, kBlock * sizeof(float));
}

// A tile of the whole picture: its first pixel, and which of its columns and rows lie inside the window.
struct TileView {
  int x, y, column_begin, columns, row_begin, row_end;
};

inline int clamp_int(int x, int low, int high) { return x < low ? low : x < high ? x : high; }

inline TileView tile_view(const RenderJob& job, int tile) {
  const CameraArgs& c = job.camera;
  TileView v;
  v.x = (job.tile_left + tile % job.tiles_x) * kTile, v.y = (job.tile_top + tile / job.tiles_x) * kTile;
  v.column_begin = clamp_int(c.left - v.x, 0, kTile);
  v.columns = clamp_int(c.left + c.width - v.x, 0, kTile) - v.column_begin;
  v.row_begin = clamp_int(c.top - v.y, 0, kTile), v.row_end = clamp_int(c.top + c.height - v.y, 0, kTile);
  return v;
}

// The index, in what is drawn, of the first pixel of a row of the tile that lies inside the window.
inline size_t row_index(const RenderJob& job, const TileView& v, int row) {
  const CameraArgs& c = job.camera;
  return size_t(v.y + row - c.top) * c.width + size_t(v.x + v.column_begin - c.left);
}

// The centre of one of the blocks along an edge of the tile, relative to the centre of the tile.
inline float block_centre(int block) { return float(block * kBlock) + 0.5f * float(kBlock - kTile); }

// From the centre of a block to one of its columns or rows.
inline float pixel_offset(int pixel) { return float(pixel) - 0.5f * float(kBlock - 1); }

// Where the pixels of a vector of a block, its `part`, lie, relative to the centre of the tile.
struct BlockPixels {
  Vf x, y;

  BlockPixels(int block, int part) {
    float lanes_x[kLanes], lanes_y[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      lanes_x[i] = pixel_offset(i % kBlock);
      lanes_y[i] = pixel_offset(i / kBlock);
    }
    x = load(lanes_x) + block_centre(block % kBlocksAcross);
    y = load(lanes_y) + (block_centre(block / kBlocksAcross) + float(part * kLanes / kBlock));
  }
};

// What a tile's pixels read of a splat: 2^(log2_opacity - u^2 - v^2) with u = p x + q y + u0 and v = r y + v0 is its
// uncapped alpha. Positions are relative to the centre of the tile.
template <int D>
struct TileSplat {
  float p, q, r, u0, v0, log2_opacity, mean_x, mean_y, color[D];
};

constexpr float kLog2AlphaMin = -7.9943534f;  // log2(1 / 255)

// Splats are taken from a list so many at a time. Their alphas do not depend on each other, and each is a long chain of
// operations: while one waits, the others go on.
constexpr int kSplatsAtOnce = 4;

// Some consecutive splats of a tile, and which of them each block of pixels has to look at, in their order.
template <int D>
struct Chunk {
  static constexpr int kSize = 128;

  int count;
  TileSplat<D> splats[kSize + 1];  // the last one reaches nothing
  int lengths[kBlocks];
  uint8_t lists[kBlocks][kSize + kListRoom];

  // The tile's splats from `slot` on, with channels [first, first + D).
  Chunk(const RenderJob& job, const TileView& view, uint32_t slot, uint32_t end, int first)
      : count(end - slot < kSize ? int(end - slot) : kSize) {
    const TileEntry* entries = job.tile_entries + slot;
    memset(lengths, 0, sizeof lengths);
    for (int next = 0; next < count; next += kLanes) {
      for (int k = next; k < next + kLanes && slot + uint32_t(k) + kSize < end; ++k) prefetch(job, entries[k + kSize]);
      add(job, view, entries, next, first);
    }
    splats[kSize] = TileSplat<D>{};
    splats[kSize].log2_opacity = 2.0f * kLog2AlphaMin;
    for (int block = 0; block < kBlocks; ++block)  // a list may be read up to the next multiple of kSplatsAtOnce
      for (int i = 0; i < kSplatsAtOnce - 1; ++i) lists[block][lengths[block] + i] = kSize;
  }

 private:
  // Records are read in the order of depth, scattered over memory: they are fetched a chunk ahead.
  static void prefetch(const RenderJob& job, const TileEntry& entry) {
    NFC_PREFETCH(job.records + entry.splat);
    NFC_PREFETCH(job.colors + size_t(entry.splat) * job.channels);
  }

  // A vector of splats from `next` on.
  void add(const RenderJob& job, const TileView& view, const TileEntry* entries, int next, int first) {
    constexpr int kFields = 8, kColumns = kLanes < 8 ? 8 : kLanes;
    static_assert(offsetof(SplatRecord, log2_opacity) == 5 * sizeof(float), "the first six floats of a record");
    Rows rows;
    rows.count = count - next < kLanes ? count - next : kLanes;
    for (int k = 0; k < kLanes; ++k) rows.index[k] = int(entries[next + (k < rows.count ? k : 0)].splat);
    Vf s[kColumns];
    load_columns(reinterpret_cast<const float*>(job.records), sizeof(SplatRecord) / sizeof(float), kColumns, rows, s);
    const Vf x = s[0] - (float(view.x) + 0.5f * kTile), y = s[1] - (float(view.y) + 0.5f * kTile);
    const Vf p = s[2], q = s[3], r = s[4], log2_opacity = s[5];
    const Vf u0 = -(p * x + q * y), v0 = -(r * y);
    list(p, q, r, u0, v0, log2_opacity, next, rows.count);

    const Vf fields[kFields] = {p, q, r, u0, v0, log2_opacity, x, y};  // as in TileSplat
    alignas(64) float lanes[kFields][kLanes];
    for (int j = 0; j < kFields; ++j) store(lanes[j], fields[j]);
    for (int k = 0; k < rows.count; ++k) {
      TileSplat<D>& to = splats[next + k];
      to.p = lanes[0][k], to.q = lanes[1][k], to.r = lanes[2][k], to.u0 = lanes[3][k], to.v0 = lanes[4][k];
      to.log2_opacity = lanes[5][k], to.mean_x = lanes[6][k], to.mean_y = lanes[7][k];
      memcpy(to.color, job.colors + rows[k] * size_t(job.channels) + first, sizeof to.color);
    }
  }

  // Appends the splats of a vector to the lists of the blocks that they reach: along the rows of a block, v lies within
  // an interval, and u within one that ends where a chord of the circle u^2 + v^2 <= radius^2 does.
  void list(Vf p, Vf q, Vf r, Vf u0, Vf v0, Vf log2_opacity, int next, int lanes) {
    constexpr float kHalf = 0.5f * float(kBlock - 1);
    // Somewhat larger than the ellipse: rounding must not leave out a pixel.
    const Vf radius2 = maximum(log2_opacity - (kLog2AlphaMin - 1e-3f), Vf{}), radius = square_root(radius2);
    const Vf slope = q / r, slack = 1e-4f + 1e-6f * (maximum(u0, -u0) + maximum(slope, -slope));
    const Vf inv = 1.0f / square_root(1.0f + slope * slope), widest = slope * radius * inv;
    const Vf offset = u0 - slope * v0;  // u = p x + slope v + offset
    const Mask used = first_lanes(lanes);
    for (int j = 0; j < kBlocksAcross; ++j) {
      const float y = block_centre(j);
      const Vf low = r * (y - kHalf) + v0, high = r * (y + kHalf) + v0;
      const Mask row = both(used, both(low <= radius, high >= -radius));
      if (!any(row)) continue;
      const Vf v_left = minimum(maximum(widest, low), high), v_right = minimum(maximum(-widest, low), high);
      const Vf left = -square_root(maximum(radius2 - v_left * v_left, Vf{})) - slope * v_left - offset - slack;
      const Vf right = square_root(maximum(radius2 - v_right * v_right, Vf{})) - slope * v_right - offset + slack;
      for (int i = 0; i < kBlocksAcross; ++i) {
        const float x = block_centre(i);
        const Mask hit = both(row, both(p * (x - kHalf) <= right, p * (x + kHalf) >= left));
        const int block = j * kBlocksAcross + i;
        lengths[block] += list_lanes(hit, next, lists[block] + lengths[block]);
      }
    }
  }
};

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
