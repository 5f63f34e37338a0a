// Rasterization of one 16 x 16 tile, forward and backward. A vector holds a block of pixels, four columns wide: small
// splats reach few of them. What is kept of a tile's pixels lies in memory block after block.
//
// The sign of the transmittance T says whether a pixel is finished: a finished pixel holds -T. The backward pass goes
// front to back like the forward pass and so computes the same T, bit for bit; what lies behind a splat is the finished
// image minus what has been blended so far.
#pragma once

#include "simd.h"
#include "jobs.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

constexpr int kBlockColumns = 4, kBlockRows = kLanes / kBlockColumns;
constexpr int kBlocksAcross = kTile / kBlockColumns, kBlocksDown = kTile / kBlockRows;

// Where a pixel of a tile lies in memory; the pixels of a block follow each other.
inline int pixel_at(int row, int column) {
  const int block = row / kBlockRows * kBlocksAcross + column / kBlockColumns;
  return block * kLanes + row % kBlockRows * kBlockColumns + column % kBlockColumns;
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

// The blocks of a tile that a splat can reach, [top, bottom) of those below each other and [left, right) of those side
// by side; pixels outside would fail the alpha test.
struct Reach {
  int left, top, right, bottom;
};

inline Reach reach(const SplatRecord& s, const TileView& v) {
  Reach r;
  r.left = clamp_int(s.column_begin - v.x, 0, kTile) / kBlockColumns;
  r.right = (clamp_int(s.column_end - v.x, 0, kTile) + kBlockColumns - 1) / kBlockColumns;
  r.top = clamp_int(s.row_begin - v.y, 0, v.row_end) / kBlockRows;
  r.bottom = (clamp_int(s.row_end - v.y, 0, v.row_end) + kBlockRows - 1) / kBlockRows;
  return r;
}

// Records are read in the order of depth, scattered over memory: fetch them some entries ahead.
inline void prefetch_splat(const RenderJob& job, uint32_t slot, uint32_t end) {
  constexpr uint32_t kAhead = 8;
  if (slot + kAhead >= end) return;
  const uint32_t i = job.tile_entries[slot + kAhead].splat;
  NFC_PREFETCH(job.records + i);
  NFC_PREFETCH(job.colors + size_t(i) * job.channels);
}

// The same of the memory that the sums over an entry are written to.
inline void prefetch_sums(const RenderJob& job, uint32_t slot, uint32_t end) {
  constexpr uint32_t kAhead = 8;
  if (slot + kAhead >= end) return;
  const int stride = job.moments() + job.channels;
  const float* sums = job.partial + size_t(job.tile_entries[slot + kAhead].entry) * stride;
  NFC_PREFETCH(sums);
  NFC_PREFETCH(sums + stride - 1);
}

// log2 of the uncapped alpha of a block of pixels, given u = p dx + q dy and base = log2(opacity) - (r dy)^2, and
// whether it counts.
inline Vf splat_exponent(Vf u, Vf base, Mask* counts) {
  const float log2_alpha_min = -7.9943534f;  // log2(1 / 255)
  const Vf exponent = base - u * u;
  *counts = exponent >= broadcast(log2_alpha_min);
  return exponent;
}

inline void start_transmittance(const TileView& v, float* T) {
  for (int i = 0; i < kTilePixels; ++i) T[i] = -1.0f;
  for (int row = v.row_begin; row < v.row_end; ++row)
    for (int column = 0; column < v.columns; ++column) T[pixel_at(row, v.column_begin + column)] = 1.0f;
}

inline bool all_finished(const float* T) {
  Vf top = load(T);
  for (int i = kLanes; i < kTilePixels; i += kLanes) top = maximum(top, load(T + i));
  float lanes[kLanes];
  store(lanes, top);
  bool finished = true;
  for (int i = 0; i < kLanes; ++i) finished &= lanes[i] <= 0.0f;
  return finished;
}

// The centres of the pixels of a tile's blocks.
struct Centres {
  Vf x[kBlocksAcross], y[kBlocksDown];

  explicit Centres(const TileView& v) {
    float lanes[kLanes];
    for (int block = 0; block < kBlocksAcross; ++block) {
      for (int i = 0; i < kLanes; ++i) lanes[i] = float(v.x + block * kBlockColumns + i % kBlockColumns) + 0.5f;
      x[block] = load(lanes);
    }
    for (int block = 0; block < kBlocksDown; ++block) {
      for (int i = 0; i < kLanes; ++i) lanes[i] = float(v.y + block * kBlockRows + i / kBlockColumns) + 0.5f;
      y[block] = load(lanes);
    }
  }
};

// What the expected depth is divided by.
inline float covered(float alpha) { return alpha > 1e-10f ? alpha : 1e-10f; }

// Blends channels [first, first + D) of the tile.
template <int D>
void raster_channels(const RenderJob& job, int tile, int first) {
  const TileView view = tile_view(job, tile);
  alignas(64) float T[kTilePixels], sum[D][kTilePixels];
  start_transmittance(view, T);
  memset(sum, 0, sizeof sum);
  const Centres centres(view);

  const uint32_t begin = job.tile_begin[tile], end = job.tile_begin[tile + 1];
  uint32_t slot = begin;
  for (; slot < end; ++slot) {
    if ((slot - begin) % 16 == 15 && all_finished(T)) break;
    prefetch_splat(job, slot, end);
    const uint32_t i = job.tile_entries[slot].splat;
    const SplatRecord& s = job.records[i];
    const float* color = job.colors + size_t(i) * job.channels + first;
    const Reach to = reach(s, view);
    Vf pdx[kBlocksAcross];
    for (int i = to.left; i < to.right; ++i) pdx[i] = s.p * (centres.x[i] - s.mean_x);
    for (int j = to.top; j < to.bottom; ++j) {
      const Vf dy = centres.y[j] - s.mean_y, v = s.r * dy, base = s.log2_opacity - v * v;
      for (int i = to.left; i < to.right; ++i) {
        Mask counts;
        const Vf exponent = splat_exponent(multiply_add(broadcast(s.q), dy, pdx[i]), base, &counts);
        const Vf alpha = select(counts, minimum(exp_2(exponent), broadcast(NFC_ALPHA_MAX)), Vf{});
        const int pixel = (j * kBlocksAcross + i) * kLanes;
        const Vf t = load(T + pixel), next = t - t * alpha;
        const Mask live = next >= broadcast(NFC_TRANSMITTANCE_MIN);
        const Vf weight = select(live, alpha * t, Vf{});
        store(T + pixel, select(live, next, negative(t)));
        for (int c = 0; c < D; ++c) store(sum[c] + pixel, load(sum[c] + pixel) + weight * color[c]);
      }
    }
  }
  job.tile_used[tile] = slot - begin;

  const int out_channels = job.channels - (job.depth ? 1 : 0);
  for (int row = view.row_begin; row < view.row_end; ++row) {
    const size_t at = row_index(job, view, row);
    int pixel[kTile];
    float left[kTile];
    for (int column = 0; column < view.columns; ++column) {
      pixel[column] = pixel_at(row, view.column_begin + column);
      left[column] = fabsf(T[pixel[column]]);
      job.out_alpha[at + column] = 1.0f - left[column];
    }
    for (int c = 0; c < D; ++c) {
      if (first + c == out_channels) {
        for (int column = 0; column < view.columns; ++column)
          job.out_depth[at + column] = sum[c][pixel[column]] / covered(1.0f - left[column]);
      } else {
        const float behind = job.background ? job.background[first + c] : 0.0f;
        float* out = job.out + at * out_channels + first + c;
        for (int column = 0; column < view.columns; ++column)
          out[column * out_channels] = sum[c][pixel[column]] + left[column] * behind;
      }
    }
  }
}

// What the backward pass needs at each pixel of a tile.
template <int D>
struct PixelGradients {
  alignas(64) float T[kTilePixels];
  alignas(64) float behind[kTilePixels];  // sum over channels of gradient times what is not blended yet
  alignas(64) float v[D][kTilePixels];    // gradient of each composited channel
};

template <int D>
inline void load_gradients(const RenderJob& job, int tile, const TileView& view, int first,
                                  PixelGradients<D>* g) {
  const int out_channels = job.channels - (job.depth ? 1 : 0);
  start_transmittance(view, g->T);
  memset(g->behind, 0, sizeof g->behind);
  memset(g->v, 0, sizeof g->v);
  float v_background[D] = {};
  for (int row = view.row_begin; row < view.row_end; ++row) {
    const size_t at = row_index(job, view, row);
    const float* alpha = job.out_alpha + at;
    int pixel[kTile];
    for (int column = 0; column < view.columns; ++column) pixel[column] = pixel_at(row, view.column_begin + column);
    for (int c = 0; c < D; ++c) {
      float* v = g->v[c];
      if (first + c == out_channels) {
        if (!job.v_depth) continue;
        for (int column = 0; column < view.columns; ++column) {  // depth = sum / covered(alpha)
          v[pixel[column]] = job.v_depth[at + column] / covered(alpha[column]);
          g->behind[pixel[column]] += job.out_depth[at + column] * job.v_depth[at + column];
        }
      } else if (job.v_out) {
        const float* out = job.out + at * out_channels + first + c;
        const float* v_out = job.v_out + at * out_channels + first + c;
        for (int column = 0; column < view.columns; ++column) {
          v[pixel[column]] = v_out[column * out_channels];
          g->behind[pixel[column]] += out[column * out_channels] * v_out[column * out_channels];
        }
        if (job.tile_background) {
          for (int column = 0; column < view.columns; ++column)
            v_background[c] += (1.0f - alpha[column]) * v_out[column * out_channels];
        }
      }
    }
    if (first == 0 && (job.v_alpha || job.v_depth)) {  // alpha = 1 - T; its gradient is part of the first pass
      for (int column = 0; column < view.columns; ++column) {
        float v_alpha = job.v_alpha ? job.v_alpha[at + column] : 0.0f;
        if (job.v_depth && alpha[column] > 1e-10f)
          v_alpha -= job.v_depth[at + column] * job.out_depth[at + column] / alpha[column];
        g->behind[pixel[column]] -= (1.0f - alpha[column]) * v_alpha;
      }
    }
  }
  if (!job.tile_background) return;
  for (int c = 0; c < D; ++c)
    if (first + c < out_channels) job.tile_background[size_t(tile) * job.channels + first + c] = v_background[c];
}

// Writes, for every splat of the tile, the sums over its pixels of g = alpha v_alpha times 1, dx, dy, dx^2, dx dy,
// dy^2 (all that the gradients of opacity, mean and conic need), of |gradient of the mean| with Abs, and the
// gradients of its channels.
template <int D, bool Abs>
void raster_channels_backward(const RenderJob& job, int tile, int first) {
  constexpr int kMoments = Abs ? kAllMoments : kPlainMoments, kSums = kMoments + D;
  const TileView view = tile_view(job, tile);
  PixelGradients<D> g;
  load_gradients<D>(job, tile, view, first, &g);
  const Centres centres(view);

  const int stride = kMoments + job.channels;
  const uint32_t begin = job.tile_begin[tile], end = job.tile_begin[tile + 1], used = begin + job.tile_used[tile];
  for (uint32_t slot = begin; slot < used; ++slot) {
    prefetch_splat(job, slot, end);
    prefetch_sums(job, slot, end);
    const uint32_t i = job.tile_entries[slot].splat;
    const SplatRecord& s = job.records[i];
    const float* color = job.colors + size_t(i) * job.channels + first;
    const Reach to = reach(s, view);
    Vf total[kSums] = {};
    Vf* const absolute = total + kPlainMoments;
    Vf* const v_color = total + kMoments;
    Vf dy[kBlocksDown], base[kBlocksDown];
    for (int j = to.top; j < to.bottom; ++j) {
      dy[j] = centres.y[j] - s.mean_y;
      const Vf v = s.r * dy[j];
      base[j] = s.log2_opacity - v * v;
    }
    for (int i = to.left; i < to.right; ++i) {
      const Vf dx = centres.x[i] - s.mean_x, pdx = s.p * dx;
      Vf g0 = {}, g1 = {}, g2 = {};  // sums of g, g dy, g dy^2 over blocks below each other, which share dx
      for (int j = to.top; j < to.bottom; ++j) {
        Mask counts;
        const Vf exponent = splat_exponent(multiply_add(broadcast(s.q), dy[j], pdx), base[j], &counts);
        if (!any(counts)) continue;
        const Vf uncapped = exp_2(exponent);
        const Vf alpha = select(counts, minimum(uncapped, broadcast(NFC_ALPHA_MAX)), Vf{});
        const int pixel = (j * kBlocksAcross + i) * kLanes;
        const Vf t = load(g.T + pixel), next = t - t * alpha;
        const Mask live = next >= broadcast(NFC_TRANSMITTANCE_MIN);
        const Vf weight = select(live, alpha * t, Vf{});
        store(g.T + pixel, select(live, next, negative(t)));
        Vf blended = Vf{};  // sum over channels of gradient times the splat's part
        for (int c = 0; c < D; ++c) {
          const Vf v_c = load(g.v[c] + pixel);
          v_color[c] = v_color[c] + weight * v_c;
          blended = blended + color[c] * v_c;
        }
        blended = blended * weight;
        const Vf behind = load(g.behind + pixel) - blended;
        store(g.behind + pixel, behind);
        // alpha v_alpha = alpha (T color v - behind / (1 - alpha)); zero where alpha is capped or the pixel finished
        Vf ga = blended - alpha * behind * reciprocal(1.0f - alpha);
        ga = select(both(live, uncapped < broadcast(NFC_ALPHA_MAX)), ga, Vf{});
        g0 = g0 + ga;
        const Vf gy = ga * dy[j];
        g1 = g1 + gy;
        g2 = g2 + gy * dy[j];
        if (Abs) {
          const Vf to_x = ga * (s.conic_a * dx + s.conic_b * dy[j]);
          const Vf to_y = ga * (s.conic_b * dx + s.conic_c * dy[j]);
          absolute[0] = absolute[0] + maximum(to_x, -to_x);
          absolute[1] = absolute[1] + maximum(to_y, -to_y);
        }
      }
      const Vf gx = g0 * dx;
      total[0] = total[0] + g0, total[1] = total[1] + gx, total[2] = total[2] + g1;
      total[3] = total[3] + gx * dx, total[4] = total[4] + g1 * dx, total[5] = total[5] + g2;
    }
    alignas(64) float sums[kSums + kLanes];
    sum_lanes<kSums>(total, sums);
    float* out = job.partial + size_t(job.tile_entries[slot].entry) * stride;
    if (first == 0) {
      memcpy(out, sums, kSums * sizeof(float));
    } else {
      for (int j = 0; j < kPlainMoments; ++j) out[j] += sums[j];
      memcpy(out + kMoments + first, sums + kMoments, D * sizeof(float));
    }
  }
  for (uint32_t slot = used; slot < end; ++slot) {
    float* out = job.partial + size_t(job.tile_entries[slot].entry) * stride;
    if (first == 0) memset(out, 0, kMoments * sizeof(float));
    memset(out + kMoments + first, 0, D * sizeof(float));
  }
}

void raster(const RenderJob& job, int tile) {
  for (int first = 0; first < job.channels; first += kMaxChannelsAtOnce) {
    switch (job.channels - first) {
      case 1:
        raster_channels<1>(job, tile, first);
        break;
      case 2:
        raster_channels<2>(job, tile, first);
        break;
      case 3:
        raster_channels<3>(job, tile, first);
        break;
      default:
        raster_channels<4>(job, tile, first);
        break;
    }
  }
}

template <bool Abs>
void raster_backward_with(const RenderJob& job, int tile) {
  for (int first = 0; first < job.channels; first += kMaxChannelsAtOnce) {
    switch (job.channels - first) {
      case 1:
        raster_channels_backward<1, Abs>(job, tile, first);
        break;
      case 2:
        raster_channels_backward<2, Abs>(job, tile, first);
        break;
      case 3:
        raster_channels_backward<3, Abs>(job, tile, first);
        break;
      default:
        raster_channels_backward<4, Abs>(job, tile, first);
        break;
    }
  }
}

void raster_backward(const RenderJob& job, int tile) {
  if (job.absgrad) {
    raster_backward_with<true>(job, tile);
  } else {
    raster_backward_with<false>(job, tile);
  }
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
